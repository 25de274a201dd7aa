"""Which turns a record marks as not to be learned, in the many words that people and programs have for it.

a message's or a record's fields → True, False, or None where they say nothing of it. Only the assistant's words are ever learned,
so a mark can take away and never add; one that would add, and two that disagree, refuse the record.
"""

import re
from collections.abc import Sequence
from typing import Any

from data_tools.chat.turns import ROLES, Refused, Role, nothing

# Names as `_plain` leaves them. True, or 1: to be learned. OpenAI and Mistral say weight, LLaMA-Factory loss_weight, ms-swift loss
# and loss_scale, axolotl train or training, verl and GLM loss_mask, XTuner output_with_loss.
_LEARN = {
    *("train", "training", "trainable", "trained", "istrain", "istraining", "istrainable", "istrained", "totrain", "dotrain"),
    *("shouldtrain", "trainon", "trainonturn", "trainonthis", "trainturn", "trainonoutput", "trainmask", "trainingmask"),
    *("learn", "learnable", "tolearn", "islearnable", "shouldlearn", "learnturn", "supervise", "supervised", "issupervised"),
    *("loss", "lossmask", "lossmasks", "hasloss", "withloss", "useloss", "isloss", "inloss", "calcloss", "calculateloss", "computeloss"),
    *("losson", "outputwithloss", "includeinloss", "assistantmask", "assistantmasks", "completionmask", "targetmask"),
    *("weight", "weights", "lossweight", "lossweights", "lossscale", "trainweight", "trainingweight", "turnweight"),
}
# True, or 1: not to be learned. torchtune says masked.
_SKIP = {
    *("mask", "masks", "masked", "ismasked", "maskturn", "maskloss", "maskedout", "maskout", "maskfromloss"),
    *("skip", "isskip", "skipped", "toskip", "shouldskip", "skipturn", "skiploss", "skiptrain", "skiptraining"),
    *(
        "notrain",
        "nottrain",
        "notrained",
        "nottrained",
        "untrained",
        "donttrain",
        "donottrain",
        "noloss",
        "nolearn",
        "dontlearn",
        "donotlearn",
    ),
    *("ignoreloss", "lossignore", "ignoreinloss", "excludefromloss", "excludefromtraining", "excludeloss"),
}
_EITHER = {"mask", "masks"}  # as a list beside the conversation, or in numbers, these may be a loss mask as well: 1 for learn
_DETAIL = "train_detail"
_WORDS = {word: True for word in ("true", "yes", "y", "on", "t", "1", "1.0")}
_WORDS |= {word: False for word in ("false", "no", "n", "off", "f", "0", "0.0")}


def is_flag(name: str) -> bool:
    return _plain(name) in _LEARN | _SKIP


def mark(fields: dict[str, Any]) -> bool | None:
    """What the flags of one message, or the plain ones of a record, say together. Raises Refused where they disagree."""
    return _agreed([_truth(name, value) != (_plain(name) in _SKIP) for name, value in _flags(fields)])


def turn_mark(message: dict[str, Any], role: Role, beside: bool | None) -> bool:
    """Whether a turn is to be learned, by its own flags and by what the record says `beside` the conversation. Raises Refused."""
    own = mark(message)
    if role != "assistant" and own and any(_plain(name) in _LEARN for name, _ in _flags(message)):
        raise Refused(f"loss weight 1 on a {role} turn")
    return _agreed([flag for flag in (own, beside) if flag is not None]) is not False


def marks_beside(record: dict[str, Any], roles: Sequence[Role]) -> list[bool | None]:
    """What a record's own flags say of each turn: one for the whole, or a list with one for each turn or each answer. Raises Refused.

    One for the whole that says yes says nothing of single turns; `mask` may name the role that is masked, as NeMo has it.
    """
    found: list[list[bool]] = [[] for _ in roles]
    whole = {}
    for name, value in _flags(record):
        if isinstance(value, list):
            for place, flag in _listed(name, value, roles):
                found[place].append(flag)
        elif isinstance(value, str) and value.strip().lower() in ROLES:
            masked = ROLES[value.strip().lower()]
            for place, role in enumerate(roles):
                found[place] += [False] if role == masked == "assistant" else []
        else:
            whole[name] = value
    of_all = mark(whole)
    return [_agreed([*flags, *([False] if of_all is False and role == "assistant" else [])]) for flags, role in zip(found, roles)]


def _listed(name: str, values: list[Any], roles: Sequence[Role]) -> list[tuple[int, bool]]:
    answers = [place for place, role in enumerate(roles) if role == "assistant"]
    places = list(range(len(roles))) if len(values) == len(roles) else answers
    if len(values) != len(places):
        raise Refused(f"{name!r} has neither a flag for each turn nor one for each answer")
    flags = [(place, _truth(name, value)) for place, value in zip(places, values) if not nothing(value)]
    others = [flag for place, flag in flags if roles[place] != "assistant"]
    if _plain(name) in _EITHER and not (others and all(others)):
        raise Refused(f"{name!r} beside the conversation may mean either; name it loss_mask (1: learn) or masked (1: do not)")
    if _plain(name) in _LEARN and any(others):
        raise Refused(f"loss weight 1 on a {next(roles[place] for place, flag in flags if flag and roles[place] != 'assistant')} turn")
    return [(place, flag != (_plain(name) in _SKIP)) for place, flag in flags if roles[place] == "assistant"]


def refuse_unclear_masks(messages: Sequence[dict[str, Any]], roles: Sequence[Role]) -> None:
    """`mask` 0 on questions and 1 on answers, in numbers, is how a loss mask looks, and `masked` turns as well. Raises Refused."""
    numbers = {
        (role == "assistant", int(value))
        for message, role in zip(messages, roles)
        for name, value in _flags(message)
        if _plain(name) in _EITHER and type(value) in (int, float) and value in (0, 1)
    }
    if {(False, 0), (True, 1)} <= numbers:
        raise Refused("'mask' of 0 and 1 may mean either; name it loss_mask (1: learn) or masked (1: do not)")


def learned_spans(message: dict[str, Any], text: Any) -> tuple[tuple[int, int], ...] | None:
    """axolotl's `train_detail`: [{begin_offset, end_offset, train}], characters of the text, the last one included → the spans to be
    learned, each without the place after its end. What no entry speaks of is not learned, and an empty list learns nothing.
    None where the message has none. Raises Refused.
    """
    details = message.get(_DETAIL)
    if details is None:
        return None
    if not isinstance(details, list) or not all(isinstance(detail, dict) for detail in details):
        raise Refused("train_detail is not a list of {begin_offset, end_offset, train}")
    if details and not isinstance(text, str):
        raise Refused("train_detail on a text in parts")
    chosen = [0] * (len(text) if isinstance(text, str) else 0)  # 0: not spoken of, 1: learn, 2: do not, 3: both
    for detail in details:
        start, end = detail.get("begin_offset"), detail.get("end_offset")
        if set(detail) - {"begin_offset", "end_offset", "train"} or type(start) is not int or type(end) is not int:
            raise Refused("train_detail is not a list of {begin_offset, end_offset, train}")
        if not 0 <= start <= end < len(chosen):
            raise Refused("train_detail reaches outside its text")
        bit = 1 if _truth("train", detail.get("train")) else 2
        chosen[start : end + 1] = [number | bit for number in chosen[start : end + 1]]
    if 3 in chosen:
        raise Refused("train_detail says both of one character")
    return tuple(found.span() for found in re.finditer("1+", "".join(map(str, chosen))))


def is_detail(name: str) -> bool:
    return name == _DETAIL


def _flags(fields: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in fields.items() if is_flag(name) and not nothing(value)]


def _agreed(flags: list[bool]) -> bool | None:
    if len(set(flags)) > 1:
        raise Refused("flags of one turn disagree on whether it is to be learned")
    return flags[0] if flags else None


def _truth(name: str, value: Any) -> bool:
    value = _WORDS.get(value.strip().lower(), value) if isinstance(value, str) else value
    if not isinstance(value, (bool, int, float)) or value not in (0, 1):
        weight = "weight" in _plain(name) or "scale" in _plain(name)
        raise Refused(f"{'a loss weight is neither 0 nor 1' if weight else 'a flag is neither true nor false'}: {name!r}")
    return bool(value)


def _plain(name: str) -> str:
    """isTrain, is_train, is-train → istrain."""
    return re.sub("[^a-z]", "", name.lower())
