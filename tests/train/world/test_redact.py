"""What looks like a secret is struck out, wherever it stands; what only sounds like one is not."""

import pytest

from train.world.redact import has_secret, redacted

CANARY = "cAnArY0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        f"s3://AKIAIOSFODNN7EXAMPLE:{CANARY}@bucket/runs", f"https://user:{CANARY}@host/x.git", f"https://{CANARY}@github.com/a/b", f"hub_token={CANARY}",
        f"--api-key={CANARY}", f"https://s/x?X-Amz-Signature={CANARY}&a=1", f'{{"access_token": "{CANARY}"}}', f"sig={CANARY}", f"hf_{CANARY}",
        f"Authorization='Bearer {CANARY}'", f"AWS_SECRET_ACCESS_KEY={CANARY}", f"sk-{CANARY}", f"password='{CANARY}'", f"ghp_{CANARY}",
        f"https://acc.blob.core.windows.net/c?sv=1&sig={CANARY}%3D", f"eyJhbGciOiJI.eyJ{CANARY}.{CANARY}",
    ],
)  # fmt: skip
def test_secrets_in_urls_words_and_by_their_looks_are_struck_out(text):
    assert CANARY not in redacted(text) and "***" in redacted(text)


def test_what_the_environment_names_a_secret_is_struck_out_anywhere(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    assert redacted(f"401 for {CANARY} at 10:00") == "401 for *** at 10:00"


@pytest.mark.parametrize(
    "text",
    [
        "tokens=2e9 tokens_per_step=4096", "step 3/10  loss 4.2  1,361 tok/s", "a token: 5", "s3://bucket/runs/x", "https://hub.co/meta-llama/Llama-2-7b-hf?x=1",
        "eos_token_id=2", "optim.lr=1e-5 name=second", "deepspeed --num_gpus 8 launch/pretrain.py r.yaml", "weights fingerprint a9fac8035bc8d3877524028fd679bf73",
    ],
)  # fmt: skip
def test_what_only_sounds_like_one_stays(text):
    assert redacted(text) == text and not has_secret(text)
