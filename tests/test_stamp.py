"""Time from outside: stamps of a local timestamp server made with `openssl ts`, a signed tag, a client of OpenTimestamps."""

import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from families.units import BadInput
from scaling.planning import stamp as stamps
from scaling.planning.planfile import write_plan
from scaling.planning.seal import open_seal
from scaling.planning.stamp import UNATTESTED, attestations, stamp, stamp_by_proof, stamp_by_tag
from scaling.scoring import compare

from .core import in_process
from .sealed import honest_study, made_plan, member

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the timestamps")

CONFIG = """
[req]
distinguished_name = dn
prompt = no
[dn]
CN = Test root
[ca]
basicConstraints = critical,CA:true
[clock]
extendedKeyUsage = critical,timeStamping
[tsa]
default_tsa = t
[t]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


def openssl(folder, *words):
    done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def honest(tmp_path):
    return honest_study(tmp_path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A folder with a root, a timestamp authority under it, and one whose certificate has run out."""
    folder = tmp_path_factory.mktemp("authority")
    (folder / "a.cnf").write_text(CONFIG.format(folder=folder))
    (folder / "serial").write_text("01")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    config = ("-config", "a.cnf")
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-extensions", "ca", *config)
    openssl(
        folder, "req", *key, "-keyout", "clock.key", "-out", "clock.csr", "-subj", "/CN=Test clock", *config
    )
    for name, days in (("clock", "30"), ("old", "-1")):
        openssl(
            folder, "x509", "-req", "-in", "clock.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "7",
            "-days", days, "-extfile", "a.cnf", "-extensions", "clock", "-out", f"{name}.pem",
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def server(authority):
    """Address of a server: /clock stamps, /old with the certificate that ran out, /broken and /words answer otherwise."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            query = self.rfile.read(int(self.headers["Content-Length"]))
            name, status, body = self.path[1:], 200, b"no timestamp"
            if name in ("clock", "old"):
                (authority / "q.tsq").write_bytes(query)
                reply = (
                    "ts",
                    "-reply",
                    "-queryfile",
                    "q.tsq",
                    "-signer",
                    f"{name}.pem",
                    "-inkey",
                    "clock.key",
                )
                openssl(authority, *reply, "-config", "a.cnf", "-out", "r.tsr")
                body = (authority / "r.tsr").read_bytes()
            elif name == "broken":
                status = 503
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_a_stamp_names_the_authority_the_time_and_whose_root_it_is(honest, server, authority):
    assert attestations(honest.plan) == (UNATTESTED,)
    time.sleep(1.1)  # times are of whole seconds
    stamp(honest.plan, f"{server}/clock", authority / "ca.pem")
    (said,) = attestations(honest.plan)
    assert said.startswith("time attested by Test clock, 20")
    assert "RFC 3161, root named by the study, SHA-256 " in said
    found = compare(honest.plan, honest.runs)
    assert found.attested == (said,)
    assert found.notes == (
        "d128: the seal was stamped after its run began; the stamp says nothing of their order",
    )
    digest = open_seal(honest.plan).seal.digest
    openssl(
        honest.folder,
        "ts",
        "-verify",
        "-digest",
        digest,
        "-in",
        "plan.json.tsr",
        "-CAfile",
        authority / "ca.pem",
    )
    with pytest.raises(BadInput, match="is stamped: time attested by Test clock"):
        stamp(honest.plan, f"{server}/clock", authority / "ca.pem")


def test_a_stamp_of_another_plan_attests_nothing(honest, server, authority):
    stamp(honest.plan, f"{server}/clock", authority / "ca.pem")
    write_plan(made_plan(member(loss=2.951)), honest.plan, replace=True)
    fault = "plan.json.tsr attests nothing: it is a stamp of another file"
    assert attestations(honest.plan) == (UNATTESTED, fault)
    stamp(honest.plan, f"{server}/clock", authority / "ca.pem")
    assert attestations(honest.plan)[0].startswith("time attested")


def test_a_certificate_that_ran_out_after_the_stamp_is_said_and_does_not_undo_it(
    honest,
    server,
    authority,
    monkeypatch,
):
    stamp(honest.plan, f"{server}/clock", authority / "ca.pem")
    run = stamps._run

    def later(words):
        if "-verify" in words and "-attime" not in words:
            words = [*words, "-attime", "4102444800"]  # the year 2100
        return run(words)

    monkeypatch.setattr(stamps, "_run", later)
    (said,) = attestations(honest.plan)
    assert said.endswith("its certificate has expired since)")


@pytest.mark.parametrize(
    ("path", "root", "reason"),
    [
        ("/old", True, "the certificate of its authority was not valid when it was made"),
        ("/clock", False, "its certificate leads to no root that is trusted here; --ca names one"),
        ("/broken", True, "answers 503 Service Unavailable; nothing is stamped"),
        ("/words", True, "gave no timestamp; is it a server of RFC 3161"),
        (":1/", True, "does not answer: "),
        ("file:///etc/passwd", True, "must be the http:// or https:// address"),
    ],
)
def test_what_is_no_stamp_is_one_line_and_nothing_is_written(honest, server, authority, path, root, reason):
    before = files(honest.folder)
    url = path if path.startswith("file") else f"http://127.0.0.1{path}" if path[0] == ":" else server + path
    with pytest.raises(BadInput) as refused:
        stamp(honest.plan, url, authority / "ca.pem" if root else None)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert files(honest.folder) == before


def test_plan_seals_and_stamps_or_writes_nothing(tmp_path, server, authority):
    plan = tmp_path / "p.json"
    words = f"plan --budget 1e15 --law chinchilla --ca {authority / 'ca.pem'} --out {plan} --stamp {server}"
    refused = in_process(f"{words}/old")
    assert (refused.status, len(refused.err.splitlines()), files(tmp_path)) == (2, 1, set())
    done = in_process(f"{words}/clock")
    assert done.status == 0, done.err
    assert files(tmp_path) == {"p.json", "p.json.tsr", "p.json.tsr.pem"}
    assert in_process(f"stamp {plan}").out.startswith("time attested by Test clock")


@pytest.fixture
def repository(honest, tmp_path, monkeypatch):
    """The study in a git repository, and a key whose holder the user trusts."""
    if shutil.which("git") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("git and ssh-keygen sign the tags")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    key = home / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (home / "signers").write_text(f"ann@example.org {key.with_suffix('.pub').read_text()}")
    (home / ".gitconfig").write_text(
        f"[user]\nname = Ann\nemail = ann@example.org\nsigningkey = {key}.pub\n"
        f'[gpg]\nformat = ssh\n[gpg "ssh"]\nallowedSignersFile = {home}/signers\n'
    )
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "A sealed plan"]):
        subprocess.run(["git", "-C", honest.folder, *words], check=True)
    return honest


def test_a_signed_tag_names_its_signer_and_that_the_clock_is_the_signers(repository):
    name = stamp_by_tag(repository.plan)
    (said,) = attestations(repository.plan)
    assert said.startswith("signed by ann@example.org with ED25519 key SHA256:")
    assert f"in git tag {name}, 20" in said
    assert said.endswith("by the signer's clock")
    with pytest.raises(BadInput, match="already exists"):
        stamp_by_tag(repository.plan)


def test_a_repository_brings_neither_its_own_signers_nor_its_own_programs(repository, tmp_path):
    stamp_by_tag(repository.plan)
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 0\n")
    evil.chmod(0o755)
    theirs = (tmp_path / "home" / "signers").rename(tmp_path / "theirs")
    for key, value in (
        ("gpg.ssh.program", evil),
        ("gpg.program", evil),
        ("gpg.ssh.allowedSignersFile", theirs),
    ):
        subprocess.run(["git", "-C", repository.folder, "config", key, value], check=True)
    first, fault = attestations(repository.plan)
    assert (first, fault.partition(": ")[2]) == (UNATTESTED, "its signature is of no one you trust")
    assert not (tmp_path / "ran").exists()


def test_without_a_repository_there_is_no_tag(honest):
    with pytest.raises(BadInput, match="lies in no git repository"):
        stamp_by_tag(honest.plan)


def test_a_proof_of_opentimestamps_is_made_and_verified_by_its_client(honest, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    with pytest.raises(BadInput, match="ots is not installed"):
        stamp_by_proof(honest.plan)
    (tmp_path / "bin").mkdir()
    client = tmp_path / "bin" / "ots"
    client.write_text(
        '#!/bin/sh\nif [ "$1" = stamp ]; then cp "$2" "$2.ots"; exit 0; fi\n'
        'echo "Success! Bitcoin block 358391 attests existence as of 2015-05-28 UTC"\n'
    )
    client.chmod(0o755)
    stamp_by_proof(honest.plan)
    assert attestations(honest.plan) == ("time attested by OpenTimestamps, 2015-05-28 UTC (Bitcoin)",)
    write_plan(made_plan(member(loss=2.951)), honest.plan, replace=True)
    assert (
        attestations(honest.plan)[1] == "plan.json.digest.ots attests nothing: it is a stamp of another file"
    )
