"""Blobs: whole or absent, checked when read, collected only when nobody wants them."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyfi_hpc.blobs.collection import Collected, collect, usage
from pyfi_hpc.blobs.store import BlobStore
from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.wire import blobs, meter, values
from pyfi_hpc.wire.limits import INLINE_BYTES

HOUR = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def age(store: BlobStore, digest: bytes, seconds: float = 2 * HOUR) -> Path:
    """Make the blob that old; its file."""
    file = blobs.path_of(store.folder, digest)
    os.utime(file, (time.time() - seconds,) * 2)
    return file


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def nothing(_: Collection[bytes]) -> Collection[bytes]:
    return ()


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 5000])
def test_what_is_put_is_what_is_got(store: BlobStore, content: bytes) -> None:
    reference = store.put(content)

    assert store.get(reference) == content
    assert reference.size == len(content)
    assert [file.name for file in files(store.folder)] == [reference.digest.hex()]


def test_a_small_value_travels_itself_and_a_large_one_as_a_claim_check(store: BlobStore) -> None:
    small, large = values.encode(b"s" * 100), values.encode(b"l" * INLINE_BYTES)

    assert store.outgoing(small) == small
    claim = store.outgoing(large)
    assert len(claim) < 100
    assert values.decode(claim, resolve=store.get) == b"l" * INLINE_BYTES


def test_large_arguments_are_a_claim_check_as_a_whole(store: BlobStore) -> None:
    args = values.encode_arguments((b"a" * INLINE_BYTES, 2), {"k": 1})

    assert values.decode_arguments(store.outgoing(args), resolve=store.get) == ((b"a" * INLINE_BYTES, 2), {"k": 1})


def test_a_blob_that_is_there_is_not_written_again_but_young_again(store: BlobStore) -> None:
    reference = store.put(b"same")
    file = age(store, reference.digest)
    before = file.stat()

    store.put(b"same")

    assert file.stat().st_ino == before.st_ino
    assert file.stat().st_mtime > before.st_mtime + HOUR


def test_a_blob_that_was_cut_short_is_written_again(store: BlobStore) -> None:
    reference = store.put(b"whole")
    os.truncate(blobs.path_of(store.folder, reference.digest), 2)

    store.put(b"whole")

    assert bytes(store.get(reference)) == b"whole"


@pytest.mark.parametrize("damaged", [b"contenT", b"content and more", b""])
def test_a_content_that_is_not_what_its_name_says_is_never_given_out(store: BlobStore, damaged: bytes) -> None:
    reference = store.put(b"content")
    blobs.path_of(store.folder, reference.digest).write_bytes(damaged)

    with pytest.raises(BadInput) as caught:
        store.get(reference)
    assert caught.value.code == "E_DIGEST"


def test_a_claim_check_with_another_size_is_refused(store: BlobStore) -> None:
    reference = store.put(b"content")

    with pytest.raises(BadInput) as caught:
        store.get(reference._replace(size=8))
    assert caught.value.code == "E_DIGEST"


def test_a_blob_that_is_not_there_may_come_later(store: BlobStore) -> None:
    with pytest.raises(Unavailable) as caught:
        store.get(values.BlobRef(bytes(32), 1))
    assert caught.value.code == "E_NOT_FOUND"


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def _small_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _nothing_of_it_stays(store: BlobStore) -> None:
    with pytest.raises(Unavailable) as caught:
        store.put(b"x" * 5 * 2**20)
    assert caught.value.code == "E_STORAGE_FULL"
    assert files(store.folder) == []
    assert bytes(store.get(store.put(b"fits"))) == b"fits"


def test_a_full_disk_leaves_nothing_of_a_blob(store: BlobStore) -> None:
    try:
        with _small_disk(store.folder):
            _nothing_of_it_stays(store)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here: {error.stderr.decode().strip()}")


def test_a_file_that_cannot_grow_leaves_nothing_of_a_blob(store: BlobStore) -> None:
    with _small_files():
        _nothing_of_it_stays(store)


WRITER = """
import os, sys, signal
from pathlib import Path
from pyfi_hpc.wire import blobs
real = os.fsync
def fsync(descriptor):
    real(descriptor)
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
blobs.put(Path(sys.argv[1]), b"z" * 100)
"""


def test_a_writer_that_dies_leaves_nothing_visible_and_its_rest_is_collected(store: BlobStore) -> None:
    reference = store.put(b"z" * 100)
    blobs.path_of(store.folder, reference.digest).unlink()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    died = subprocess.run([sys.executable, "-c", WRITER, str(store.folder)], env=env)
    assert died.returncode == -9

    with pytest.raises(Unavailable):
        store.get(reference)
    (rest,) = files(store.folder)
    assert rest.parent.name == "tmp"
    collect(store.folder, nothing, older_than_seconds=HOUR)
    assert rest.exists()
    collect(store.folder, nothing, older_than_seconds=0)
    assert files(store.folder) == []


def test_a_collection_takes_what_is_old_and_unreferenced(store: BlobStore) -> None:
    old, wanted, young = store.put(b"old"), store.put(b"wanted"), store.put(b"young")
    for reference in (old, wanted):
        age(store, reference.digest)
    assert usage(store.folder) == (3, 14)

    removed = collect(store.folder, lambda asked: {wanted.digest} & set(asked), older_than_seconds=HOUR)

    assert removed == Collected(1, 3)
    assert usage(store.folder) == (2, 11)
    assert bytes(store.get(wanted)) == b"wanted" and bytes(store.get(young)) == b"young"


def test_a_blob_that_is_put_while_it_is_collected_stays(store: BlobStore) -> None:
    reference = store.put(b"again")
    age(store, reference.digest)

    def meanwhile(_: Collection[bytes]) -> Collection[bytes]:
        store.put(b"again")
        return ()

    assert collect(store.folder, meanwhile, older_than_seconds=HOUR) == Collected(0, 0)
    assert bytes(store.get(reference)) == b"again"


def test_what_a_collection_that_died_had_moved_aside_comes_back(store: BlobStore) -> None:
    reference = store.put(b"aside")
    file = age(store, reference.digest)
    file.rename(store.folder / "tmp" / f"{file.name}.aside")

    assert collect(store.folder, set, older_than_seconds=HOUR) == Collected(0, 0)
    assert bytes(store.get(reference)) == b"aside"


def test_an_empty_folder_has_nothing_to_collect(store: BlobStore) -> None:
    assert collect(store.folder, nothing, older_than_seconds=0) == Collected(0, 0)
    assert usage(store.folder) == (0, 0)


# what is durable when


def _steps(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, str]]:
    """What is synced and renamed from now on, by names below `folder`."""
    steps: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        steps.append(("sync", os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), folder)))
        sync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        steps.append(("rename", os.path.relpath(new, folder)))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    return steps


def test_a_blob_is_seen_once_its_content_is_durable_and_told_of_once_its_name_is(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = _steps(monkeypatch, store.folder)

    name = store.put(b"durable").digest.hex()

    shelf = name[:2]
    assert steps[0][0] == "sync" and steps[0][1].startswith("tmp/")
    assert steps[1:] == [("sync", "."), ("rename", f"{shelf}/{name}"), ("sync", shelf)]


def test_what_another_writer_has_just_placed_is_durable_before_it_is_told_of(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = store.put(b"durable").digest.hex()
    steps = _steps(monkeypatch, store.folder)

    store.put(b"durable")

    assert steps == [("sync", name[:2])]


def test_a_folder_that_somebody_has_cleared_is_made_anew(store: BlobStore) -> None:
    store.put(b"content")
    shutil.rmtree(store.folder)

    assert bytes(store.get(store.put(b"content"))) == b"content"


# how much there may be


QUOTA = 10 * meter.UNIT_BYTES


def put(store: BlobStore, units: int, fill: int = 0) -> values.BlobRef:
    """A blob of that many units, filled with that byte."""
    return blobs.put(store.folder, bytes([fill]) * (units * meter.UNIT_BYTES), quota_bytes=QUOTA)


def refused(store: BlobStore, units: int, fill: int = 0) -> Unavailable:
    """Why such a blob is not stored; nothing of it is there."""
    before = usage(store.folder)
    with pytest.raises(Unavailable) as caught:
        put(store, units, fill)
    assert usage(store.folder) == before and not list(store.folder.glob("tmp/*"))
    return caught.value


def test_all_blobs_together_take_no_more_than_they_may(store: BlobStore) -> None:
    put(store, 6)
    put(store, 3, 1)

    error = refused(store, 2, 2)

    assert error.code == "E_STORAGE_FULL" and "paths.blobs_gib" in (error.cure or "")
    put(store, 1, 2)
    assert refused(store, 1, 3).code == "E_STORAGE_FULL"
    put(store, 6)  # it is there already


def test_a_blob_that_is_larger_than_all_room_is_refused_for_good(store: BlobStore) -> None:
    with pytest.raises(BadInput) as caught:
        put(store, 11)

    error, size = caught.value, 11 * meter.UNIT_BYTES
    assert error.code == "E_LIMIT" and "paths.blobs_gib" in (error.cure or "")
    assert f"{size} bytes" in error.what and str(QUOTA) in error.what
    assert not list(store.folder.rglob("*"))
    put(store, 10)


@pytest.mark.parametrize("counted", [False, True], ids=["the first blobs", "blobs after others"])
def test_threads_that_store_at_once_take_no_more_than_there_is(store: BlobStore, counted: bool) -> None:
    if counted:
        put(store, 2)
    together = threading.Barrier(8)

    def one(fill: int) -> bool:
        together.wait()
        try:
            put(store, 2, fill)
        except Unavailable:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        stored = sum(pool.map(one, range(1, 9)))

    assert stored == QUOTA // meter.UNIT_BYTES // 2 - counted
    assert meter.used_bytes(store.folder) == (stored + counted) * 2 * meter.UNIT_BYTES


def test_of_two_that_find_nothing_counted_the_first_walk_stands(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk_while_another_counts(folder: Path) -> int:
        meter.tell(folder, 7 * meter.UNIT_BYTES)
        return 0

    monkeypatch.setattr(meter, "walked", walk_while_another_counts)
    put(store, 2)

    assert meter.used_bytes(store.folder) == 9 * meter.UNIT_BYTES


def test_what_was_there_before_anybody_counted_counts(store: BlobStore) -> None:
    store.put(bytes(8 * meter.UNIT_BYTES))
    assert meter.used_bytes(store.folder) is None

    assert refused(store, 3, 1).code == "E_STORAGE_FULL"
    assert meter.used_bytes(store.folder) == 8 * meter.UNIT_BYTES


def test_processes_that_share_a_folder_share_the_count(store: BlobStore) -> None:
    put(store, 1)
    program = "import sys; from tests.unit.test_blobs import *; put(BlobStore(Path(sys.argv[1])), 1, int(sys.argv[2]))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    others = [subprocess.Popen([sys.executable, "-c", program, str(store.folder), str(n)], env=env) for n in (1, 2, 3)]

    assert [other.wait(60) for other in others] == [0, 0, 0]

    assert meter.used_bytes(store.folder) == 4 * meter.UNIT_BYTES == meter.walked(store.folder)


def test_after_a_collection_there_is_room_again(store: BlobStore) -> None:
    age(store, put(store, 9).digest)
    refused(store, 2, 1)
    collect(store.folder, nothing, older_than_seconds=HOUR)

    meter.recount(store.folder)

    put(store, 9, 1)


def test_where_nobody_limits_it_nobody_counts(store: BlobStore) -> None:
    store.put(b"content")
    meter.recount(store.folder)

    assert meter.used_bytes(store.folder) is None
    assert [file.name for file in files(store.folder)] == [store.put(b"content").digest.hex()]
