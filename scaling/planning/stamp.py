"""Time from outside for a seal: RFC 3161 timestamps, OpenTimestamps, a signed git tag (docs/seal.md).

`openssl`, `ots` and `git` do the work, each only where it is used: a timestamp is verified as it stood at its own time, which
the Python client of RFC 3161 cannot do, and a certificate expires long before a study does (docs/log.md).
"""

import datetime
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from families.units import BadInput

from ..files import atomic_writes, sha256_bytes
from .planfile import PlanFile
from .seal import open_seal

UNATTESTED = "attested by nobody but this machine"

ANSWER_SECONDS = 20.0  # that a timestamp server, git or ots may take
LARGEST_ANSWER = 2**20  # bytes; a timestamp with its certificates takes under 10 kB

_TIME = re.compile(r"^Time stamp: (\w{3}) +(\d+) (\d\d):(\d\d):(\d\d)\S* (\d{4}) GMT$", re.MULTILINE)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NAMED = re.compile(r"^(subject|issuer)=(.*)$", re.MULTILINE)
# A study may come with a repository of a stranger: git must not run the programs that its config names, nor take the signers
# that it trusts.
_OWN_PROGRAMS = (
    "-c", "gpg.program=gpg", "-c", "gpg.openpgp.program=gpg", "-c", "gpg.ssh.program=ssh-keygen",
    "-c", "gpg.x509.program=gpgsm", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attestation:
    """What one stamp says: a sentence, the time that it attests where that is known, and whether it holds."""

    text: str
    time: datetime.datetime | None = None
    holds: bool = False


def attestations(path: Path, plan: PlanFile | None = None) -> tuple[str, ...]:
    """Who attests the time of a plan's seal, a sentence each, the faults of stamps that do not among them.

    Args:
        path: plan.json, beside which its stamps lie.
        plan: its contents, if they are read already.

    Returns:
        Sentences; the first is `UNATTESTED` where no stamp holds. None for a plan without a seal.
    """
    try:
        plan = plan or open_seal(path)
    except BadInput:
        return ()
    return () if plan.seal is None else attestation_texts(stamps_of(path, plan))


def attestation_texts(stamps: Sequence[Attestation]) -> tuple[str, ...]:
    """The sentences of stamps: those that hold, else `UNATTESTED`, then the faults of the others."""
    held = [one.text for one in stamps if one.holds]
    return (*(held or [UNATTESTED]), *(one.text for one in stamps if not one.holds))


def stamps_of(path: Path, plan: PlanFile) -> tuple[Attestation, ...]:
    """The stamps beside a sealed plan, and what each of them attests."""
    if plan.seal is None:
        return ()
    digest = plan.seal.digest
    return (*_timestamps(path, digest), *_proofs(path, digest), *_tags(path, digest))


# RFC 3161


def timestamp_of(digest: str, url: str, root: Path | None = None) -> tuple[bytes, Attestation]:
    """Ask a timestamp server for a stamp of a digest, and verify it.

    Args:
        digest: hexadecimal SHA-256.
        url: of the server, http or https.
        root: certificates to trust besides the system's, in PEM.

    Returns:
        The answer, DER, and what it attests.

    Raises:
        BadInput: no such server, no answer, or an answer that does not verify; naming which.
    """
    if not url.startswith(("http://", "https://")):
        raise BadInput(f"stamp is {url!r}; it must be the http:// or https:// address of a timestamp server")
    if root is not None and not root.is_file():
        raise BadInput(f"{root} does not exist; --ca names a file of root certificates in PEM")
    with tempfile.TemporaryDirectory() as temporary:
        query = Path(temporary) / "request.tsq"
        _openssl("ts", "-query", "-digest", digest, "-sha256", "-cert", "-out", str(query))
        answer = _post(url, query.read_bytes())
        given = Path(temporary) / "answer.tsr"
        given.write_bytes(answer)
        reply = _run(["openssl", "ts", "-reply", "-in", str(given), "-text"])
        if reply.returncode or "Status: Granted" not in reply.stdout:
            status = re.search(r"Status description: (.*)", reply.stdout)
            said = f": {status[1]}" if status else ""
            raise BadInput(f"{url} gave no timestamp{said}; is it a server of RFC 3161?")
        attested = _verified(given, digest, root)
    if not attested.holds:
        raise BadInput(f"the answer of {url} does not hold: {attested.text}")
    return answer, attested


def stamp_files(path: Path, digest: str, url: str, root: Path | None = None) -> dict[Path, bytes | str]:
    """The files that stamp a plan, for `atomic_writes`.

    Args:
        path: plan.json, which need not be there yet.
        digest: of its seal.
        url: of the server.
        root: certificates to trust besides the system's, in PEM.

    Raises:
        BadInput: as `timestamp_of`.
    """
    answer, _ = timestamp_of(digest, url, root)
    files: dict[Path, bytes | str] = {_beside(path, ".tsr"): answer}
    if root is not None:
        files[_beside(path, ".tsr.pem")] = root.read_bytes()
    return files


def stamp(path: Path, url: str, root: Path | None = None) -> None:
    """Stamp a sealed plan by a timestamp server; the answer is kept beside it as plan.json.tsr.

    A stamp that holds is not replaced: the older one says more.

    Raises:
        BadInput: the plan is not sealed or was edited, it has a stamp, or as `timestamp_of`; nothing is written then.
    """
    plan = open_seal(path)
    assert plan.seal is not None
    for one in _timestamps(path, plan.seal.digest):
        if one.holds:
            raise BadInput(f"{path} is stamped: {one.text}")
    atomic_writes(stamp_files(path, plan.seal.digest, url, root))


def _post(url: str, query: bytes) -> bytes:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(  # noqa: S310 - http and https alone, checked by `timestamp_of`
        url, data=query, headers={"Content-Type": "application/timestamp-query"}
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
            return bytes(answer.read(LARGEST_ANSWER))
    except urllib.error.HTTPError as error:
        raise BadInput(f"{url} answers {error.code} {error.reason}; nothing is stamped") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise BadInput(f"{url} does not answer: {reason}; nothing is stamped") from error


def _timestamps(path: Path, digest: str) -> list[Attestation]:
    given, root = _beside(path, ".tsr"), _beside(path, ".tsr.pem")
    if not given.exists():
        return []
    if shutil.which("openssl") is None:
        return [Attestation(f"{given.name} is not verified: openssl is not installed")]
    found = _verified(given, digest, root if root.is_file() else None)
    return [found if found.holds else Attestation(f"{given.name} attests nothing: {found.text}")]


def _verified(given: Path, digest: str, root: Path | None) -> Attestation:
    """What a timestamp attests of a digest: first by the system's roots, then by the file that is named."""
    shown = _run(["openssl", "ts", "-reply", "-in", str(given), "-text"]).stdout
    stated = _TIME.search(shown)
    if stated is None:
        return Attestation("it is no timestamp of RFC 3161")
    month, *numbers = stated.groups()
    day, hour, minute, second, year = map(int, numbers)
    moment = datetime.datetime(year, _MONTHS.index(month) + 1, day, hour, minute, second, tzinfo=datetime.UTC)
    why = ""
    for roots, note in _roots(root):
        words = ["openssl", "ts", "-verify", "-digest", digest, "-in", str(given), *roots]
        at = _run([*words, "-attime", str(int(moment.timestamp()))])
        if at.returncode:
            why = _reason(at.stderr)
            continue
        expired = "; its certificate has expired since" if "has expired" in _run(words).stderr else ""
        return Attestation(
            f"time attested by {_authority(given)}, {_iso(moment)} (RFC 3161, {note}{expired})", moment, True
        )
    return Attestation(why)


def _roots(named: Path | None) -> list[tuple[list[str], str]]:
    import ssl

    paths = ssl.get_default_verify_paths()
    system = [
        *(["-CAfile", paths.cafile] if paths.cafile else []),
        *(["-CApath", paths.capath] if paths.capath else []),
    ]
    found = [(system, "root of this system")] if system else []
    if named is not None:
        fingerprint = sha256_bytes(named.read_bytes())[:16]
        found.append((["-CAfile", str(named)], f"root named by the study, SHA-256 {fingerprint}"))
    return found


def _reason(stderr: str) -> str:
    if "imprint mismatch" in stderr:
        return "it is a stamp of another file"
    if "has expired" in stderr or "not yet valid" in stderr:
        return "the certificate of its authority was not valid when it was made"
    if "unable to get" in stderr or "self-signed" in stderr or "self signed" in stderr:
        return "its certificate leads to no root that is trusted here; --ca names one"
    lines = [line.rpartition(":")[2] for line in stderr.splitlines() if ":error:" in line]
    return f"openssl does not verify it: {lines[-1] if lines else 'no reason given'}"


def _authority(given: Path) -> str:
    """The name on the certificate that signed: the one that issued none of the others."""
    with tempfile.TemporaryDirectory() as temporary:
        token = Path(temporary) / "token.der"
        _run(["openssl", "ts", "-reply", "-in", str(given), "-token_out", "-out", str(token)])
        listed = _run(
            ["openssl", "pkcs7", "-inform", "DER", "-in", str(token), "-print_certs", "-noout"]
        ).stdout
    named = _NAMED.findall(listed)
    issuers = {name for kind, name in named if kind == "issuer"}
    subjects = [name for kind, name in named if kind == "subject"]
    leaves = [name for name in subjects if name not in issuers] or subjects
    if not leaves:
        return "an authority without a name"
    common = re.search(r"CN ?= ?([^,/]+)", leaves[0])
    return common[1].strip() if common else leaves[0]


# OpenTimestamps


def stamp_by_proof(path: Path) -> None:
    """Ask the OpenTimestamps client for a proof of a sealed plan's digest, kept as plan.json.digest.ots.

    Raises:
        BadInput: the plan is not sealed, the client is not installed, or it fails.
    """
    plan = open_seal(path)
    assert plan.seal is not None
    if shutil.which("ots") is None:
        raise BadInput("ots is not installed; pip install opentimestamps-client brings it")
    with tempfile.TemporaryDirectory() as temporary:
        text = Path(temporary) / _beside(path, ".digest").name
        text.write_text(f"{plan.seal.digest}\n", encoding="utf-8")
        done = _run(["ots", "stamp", str(text)])
        proof = Path(f"{text}.ots")
        if done.returncode or not proof.is_file():
            raise BadInput(f"ots made no proof: {_last(done)}")
        atomic_writes(
            {_beside(path, ".digest"): text.read_bytes(), _beside(path, ".digest.ots"): proof.read_bytes()}
        )


def _proofs(path: Path, digest: str) -> list[Attestation]:
    text, proof = _beside(path, ".digest"), _beside(path, ".digest.ots")
    if not proof.exists():
        return []
    if not text.exists() or text.read_bytes() != f"{digest}\n".encode():
        return [Attestation(f"{proof.name} attests nothing: it is a stamp of another file")]
    if shutil.which("ots") is None:
        return [Attestation(f"{proof.name} is not verified: ots is not installed")]
    done = _run(["ots", "verify", str(proof)])
    said = re.search(r"attests existence as of (.+)", done.stdout + done.stderr)
    if done.returncode or said is None:
        return [Attestation(f"{proof.name} attests nothing yet: {_last(done)}")]
    day = re.match(r"\d{4}-\d\d-\d\d", said[1])
    moment = datetime.datetime.fromisoformat(day[0]).replace(tzinfo=datetime.UTC) if day else None
    return [Attestation(f"time attested by OpenTimestamps, {said[1].strip()} (Bitcoin)", moment, True)]


# A signed tag


def stamp_by_tag(path: Path) -> str:
    """Sign a sealed plan's digest as a tag of the git repository around it; returns the tag's name.

    Raises:
        BadInput: the plan is not sealed, there is no repository, the tag exists, or git cannot sign.
    """
    plan = open_seal(path)
    assert plan.seal is not None
    digest = plan.seal.digest
    if shutil.which("git") is None or not _repository(path):
        raise BadInput(f"{path.absolute().parent} lies in no git repository; --git signs a tag in one")
    name = _tag(digest)
    message = f"scaling: {path.name} sealed at {plan.seal.sealed_at}\n\n{digest}"
    done = _run(["git", "-C", str(path.absolute().parent), "tag", "-s", "-m", message, name])
    if done.returncode:
        raise BadInput(f"git made no signed tag: {_last(done)}")
    return name


def _tags(path: Path, digest: str) -> list[Attestation]:
    if not _repository(path) or shutil.which("git") is None:
        return []
    git, name = ["git", "-C", str(path.absolute().parent), *_OWN_PROGRAMS], _tag(digest)
    text = _run([*git, "cat-file", "tag", name])
    if text.returncode:
        return []
    if digest not in text.stdout.split():
        return [Attestation(f"git tag {name} attests nothing: it is a stamp of another file")]
    signers = _run(
        ["git", "config", "--global", "--type=path", "--get", "gpg.ssh.allowedSignersFile"]
    ).stdout.strip()
    done = _run([*git, "-c", f"gpg.ssh.allowedSignersFile={signers or '/dev/null'}", "verify-tag", name])
    signer = re.search(r"Good .*?signature (?:from|for) (.+)", done.stderr + done.stdout)
    if done.returncode or signer is None:
        return [Attestation(f"git tag {name} attests nothing: its signature is of no one you trust")]
    tagger = re.search(r"^tagger .*? (\d+) [+-]\d{4}$", text.stdout, re.MULTILINE)
    moment = datetime.datetime.fromtimestamp(int(tagger[1]) if tagger else 0, datetime.UTC)
    return [
        Attestation(
            f"signed by {signer[1].strip()} in git tag {name}, {_iso(moment)} by the signer's clock",
            moment,
            True,
        )
    ]


def _repository(path: Path) -> bool:
    return any((folder / ".git").exists() for folder in path.absolute().parents)


def _tag(digest: str) -> str:
    return f"scaling-seal-{digest[:16]}"


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")


def _iso(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).replace(tzinfo=None).isoformat() + "Z"


def _last(done: "subprocess.CompletedProcess[str]") -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"it ended with status {done.returncode}"


def _openssl(*words: str) -> None:
    if shutil.which("openssl") is None:
        raise BadInput("openssl is not installed, and it makes and verifies timestamps: install it")
    done = _run(["openssl", *words])
    if done.returncode:
        raise BadInput(f"openssl {words[0]} failed: {_last(done)}")


def _run(words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a program without a shell, its messages in English; one that takes too long has failed."""
    variables = {**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        return subprocess.run(  # noqa: S603 - a list of words, no shell; openssl, git or ots
            words, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS, env=variables,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(words), 1, "", f"{words[0]}: {error}")
