"""LaTeX sources from strangers: what is read, and the one-word reason for everything that is not."""

import gzip
import io
import json
import os
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from data_tools.archives.limits import ArchiveError, Caps
from data_tools.archives.source import read_source
from data_tools.archives.tar_stream import bulk_members, safe_name, tar_members
from tests.made import processes
from tests.made.where import ROOT

TEX = b"\\documentclass{article}\\begin{document}Stars.\\end{document}\n"


def tar(members: list[tuple[str, bytes]], **fields) -> bytes:
    """A tar by Python's own writer; fields are set on every member (type, linkname …)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A tar header that may lie about its size."""
    field = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    block = bytearray(name.encode().ljust(100, b"\0") + b"0000644\0" * 3 + field + b"0" * 11 + b"\0" + b" " * 8 + kind + b"\0" * 355)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def hostile() -> dict[str, tuple[str, bytes]]:
    """name → (reason it must be refused with, bytes)."""
    bomb = zlib.compressobj(9, wbits=31)
    bomb = b"".join([bomb.compress(header("fig.eps", 190 << 20))] + [bomb.compress(bytes(1 << 20)) for _ in range(190)] + [bomb.flush()])
    tar_bomb = zlib.compressobj(9, wbits=31)
    tar_bomb = b"".join(
        [tar_bomb.compress(header("fig.eps", 10 << 30))]
        + [tar_bomb.compress(os.urandom(4096) * 256) for _ in range(250)]
        + [tar_bomb.flush()]
    )
    noise = b"".join(os.urandom(1 << 15).hex().encode() for _ in range(650))  # 41 MB in one line, ratio 2
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("ms.tex", TEX)
    paper = gzip.compress(tar([("ms.tex", TEX * 50)]))
    return {
        "parent folder": ("path_traversal", tar([("ms.tex", TEX), ("../../escaped.tex", TEX)])),
        "parent folder by backslash": ("path_traversal", tar([("a\\..\\..\\escaped.tex", TEX)])),
        "absolute name": ("absolute_name", tar([("/tmp/escaped.tex", TEX)])),
        "drive letter": ("absolute_name", tar([("C:\\escaped.tex", TEX)])),
        "symbolic link": ("symbolic_link", tar([("ms.tex", b"")], type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "hard link": ("hard_link", tar([("ms.tex", b"")], type=tarfile.LNKTYPE, linkname="../../secret")),
        "device": ("special_file", tar([("ms.tex", b"")], type=tarfile.CHRTYPE)),
        "fifo": ("special_file", tar([("ms.tex", b"")], type=tarfile.FIFOTYPE)),
        "sparse": ("sparse_file", header("ms.tex", 0, b"S") + bytes(1024)),
        "gzip bomb": ("ratio", bomb),
        "tar bomb": ("expands_too_large", tar_bomb),
        "300 MB of one letter": ("text_too_large", gzip.compress(b"a" * (300 << 20), 1)),
        "gzip in gzip": ("nested_archive", gzip.compress(gzip.compress(TEX))),
        "tar in tar": ("nested_archive", tar([("inner.tar.gz", paper)])),
        "truncated gzip": ("truncated", paper[:-12]),
        "truncated tar": ("truncated", tar([("ms.tex", TEX * 50)])[:1500]),
        "many members": ("too_many_members", gzip.compress(b"".join(header(f"f{i}", 0) for i in range(10_001)) + bytes(1024), 1)),
        "huge member": ("expands_too_large", header("ms.tex", 1 << 62) + TEX),
        "huge name header": ("header_too_large", header("././@LongLink", 1 << 33, b"L") + b"a" * 4096),
        "deep folders": ("too_deep", tar([("d/" * 41 + "ms.tex", TEX)])),
        "same name twice": ("duplicate_name", tar([("ms.tex", TEX), ("./ms.tex", b"other")])),
        "encrypted": ("encrypted", b"Salted__" + os.urandom(4096)),
        "garbage": ("garbage", b"\x00\x01\x02" + os.urandom(4096)),
        "zip": ("zip", zipped.getvalue()),
        "pdf": ("pdf", b"%PDF-1.5\n" + os.urandom(100)),
        "damaged gzip": ("corrupt", paper[:40] + bytes([paper[40] ^ 0xFF]) * 8 + paper[48:]),
        "damaged header": ("corrupt", tar([("ms.tex", TEX)])[:1024] + b"x" * 512 + bytes(1024)),
        "garbage after gzip": ("trailing_garbage", paper + b"rm -rf"),
        "one long text": ("text_too_large", gzip.compress(noise, 1)),
        "nothing": ("empty", b""),
        "control characters": ("unsafe_name", tar([("ms\n.tex", TEX)])),
        "no TeX": ("no_tex", tar([("fig.eps", b"%!PS")])),
        "no TeX but arXiv's remarks": ("no_tex", tar([("paper.pdf", b"%PDF-1.5"), ("00README.json", b'{"sources": []}')])),
    }


READER = """
import json, os, resource, sys, time
from pathlib import Path
from data_tools.archives.limits import ArchiveError
from data_tools.archives.source import read_source
writes = []
def watch(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT): writes.append(str(args[0]))
    if event in ("os.mkdir", "os.symlink", "os.link", "os.rename", "subprocess.Popen", "os.system", "os.exec"): writes.append(event)
sources = [(path.name, path.read_bytes()) for path in sorted(Path(sys.argv[1]).iterdir())]
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
sys.addaudithook(watch)
out = {}
for name, data in sources:
    start = time.perf_counter()
    try: reason = "READ " + str(list(read_source(data)))
    except ArchiveError as error: reason = error.reason
    out[name] = [reason, time.perf_counter() - start]
print(json.dumps({"out": out, "writes": writes}))
"""


@pytest.mark.slow
def test_hostile_archives_write_nothing_stay_under_200_mb_and_each_ends_in_its_reason(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "sources", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    cases = hostile()
    for name, (_, data) in cases.items():
        (folder / name).write_bytes(data)
    done = processes.run(
        [sys.executable, "-c", READER, str(folder)],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(cases) >= 20
    assert {name: reason for name, (reason, _) in found["out"].items()} == {name: reason for name, (reason, _) in cases.items()}
    assert max(seconds for _, seconds in found["out"].values()) <= 5
    assert found["writes"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "sources"] and not list(elsewhere.iterdir())


@pytest.mark.parametrize("pack", [lambda tree: tar(tree), lambda tree: gzip.compress(tar(tree))], ids=["tar", "tar.gz"])
def test_a_tree_is_read_as_python_s_tarfile_reads_it(pack) -> None:
    long = "sections/" + "a" * 150 + "/intro.tex"
    tree = [("./ms.tex", TEX), (long, b"Introduction"), ("fig/one.pdf", b"%PDF" + os.urandom(2000)), ("ms.bbl", b"refs")]
    with tarfile.open(fileobj=io.BytesIO(pack(tree))) as archive:
        expected = {
            member.name.removeprefix("./"): archive.extractfile(member).read() for member in archive if not member.name.endswith("pdf")
        }
    assert read_source(pack(tree)) == expected
    assert len(expected) == 3


def test_pax_and_ustar_names_are_read() -> None:
    for form in (tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        name = ("é" if form == tarfile.PAX_FORMAT else "e") + "/" + "b" * 90 + "/" + "c" * 60 + ".tex"
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            info = tarfile.TarInfo(name)
            info.size = len(TEX)
            archive.addfile(info, io.BytesIO(TEX))
        assert read_source(out.getvalue()) == {name: TEX}


def test_a_gz_of_one_tex_and_a_bare_tex_are_single_files() -> None:
    assert read_source(TEX) == read_source(gzip.compress(TEX)) == {"main.tex": TEX}
    assert read_source(gzip.compress(TEX[:20]) + gzip.compress(TEX[20:])) == {"main.tex": TEX}


def test_a_figure_that_compresses_well_is_no_bomb_below_a_megabyte() -> None:
    assert list(read_source(gzip.compress(tar([("ms.tex", TEX), ("fig.eps", b"0" * 900_000)])))) == ["ms.tex"]


def test_caps_can_be_lowered() -> None:
    with pytest.raises(ArchiveError, match="too_many_members: more than 2"):
        read_source(tar([(f"{i}.tex", TEX) for i in range(3)]), Caps(members=2))


def test_shares_of_a_bulk_tar_hold_each_paper_once() -> None:
    names = [f"2301/2301.{i:05d}.gz" for i in range(50)]
    data = tar([(name, gzip.compress(TEX * i)) for i, name in enumerate(names)])
    cuts = [0, 5000, 5001, 20_480, 30_000, len(data)]
    shares = [[member.name for member in bulk_members(io.BytesIO(data), first, last)] for first, last in zip(cuts, cuts[1:])]
    assert sum(shares, []) == names
    assert sum(map(bool, shares)) >= 3


def test_members_left_unread_are_skipped_in_a_stream_that_cannot_seek() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.inner = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            return self.inner.readinto(buffer)

    data = tar([("a.tex", b"x" * 700_000), ("b.tex", TEX)])
    assert [member.name for member in tar_members(io.BufferedReader(Pipe(data)), Caps())] == ["a.tex", "b.tex"]


def test_safe_name_keeps_what_lies_inside() -> None:
    assert safe_name("./paper//sections/./intro.tex") == "paper/sections/intro.tex"
