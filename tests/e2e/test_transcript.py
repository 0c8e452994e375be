"""FlexDirect set up and used as its users knew it, on one client and two GPU servers with
two CPU devices each; certificates on both ends of every connection between them.

What is typed, and in which order, is that of FlexDirect's own guide: install, init on
servers and client with the terms and a key, the service, bare flexdirect, list_gpus,
servers.conf, local and run on a server, localhealth, health and smi, run on the client.
"""

import re
import shutil

import pytest

from tests.hosts import network
from tests.support import compile_c, until

TERMS = "Do you accept these terms? [y/N]"
KEY = "Enter the key (a token of 'fdserver token'):"
SETUP = r"""
sed -i 's/^#listen/listen/' /etc/bitfusionio/flexdirect.toml
printf 'FD_CPU_DEVICES=2\nFD_CPU_MEMORY_MB=4096\n' >> /etc/default/fdserver
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with network(tmp_path_factory.mktemp("hosts"), ("client", "gpu1", "gpu2")) as made:
        yield made


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """Nobody's program: it knows nothing of fdcore."""
    return compile_c("demo_driver.c", tmp_path_factory.mktemp("apps"))


def key_of(said):
    return re.search(r"^fd1\.\S+", said, re.M).group()


@pytest.mark.timeout(600)
def test_flexdirect_is_set_up_and_used_as_its_users_knew_it(hosts, app):
    client, gpu1, gpu2 = hosts["client"], hosts["gpu1"], hosts["gpu2"]

    # The first server founds the pool, the second joins it: terms, then the key.
    gpu1.sh(SETUP)
    key = key_of(gpu1.sh("fdserver token --role node"))
    gpu1.sh("systemctl enable --now flexdirect")
    gpu2.sh(SETUP)
    said = gpu2.typed("flexdirect init", [(TERMS, "y"), (KEY, key)])
    assert "Attempting to join pool" in said
    assert "The key is ready." in said
    assert "FlexDirect is enrolled and ready for use." in said
    gpu2.sh("systemctl enable --now flexdirect")
    for server in (gpu1, gpu2):
        status = server.sh("systemctl status flexdirect")
        assert "Active: active (running)" in status
        assert 'Status: "2 GPUs at 0.0.0.0:56001: 0 leases, 0 programs"' in status

    # The client has no GPU, no server and no configuration yet.
    lonely = client.sh("flexdirect list_gpus", status=None)
    assert "GPU 0" not in lonely
    key = key_of(gpu1.sh("fdserver token --name ann"))
    said = client.typed("flexdirect init", [(TERMS, "y"), (KEY, key)])
    assert "Joined as user ann." in said
    client.sh("printf 'gpu1\\ngpu2:56001\\n' > /etc/bitfusionio/servers.conf")

    # Bare flexdirect lists what there is.
    listed = client.sh("flexdirect")
    for command in ("run", "local", "list_gpus", "health", "localhealth", "smi", "init",
                    "request_gpus", "client", "release_gpus", "stats", "netperf"):  # fmt: skip
        assert re.search(rf"^  {command} ", listed, re.M)

    # All GPUs of the pool, from the client and from a server.
    pool = client.sh("flexdirect list_gpus")
    assert re.findall(r"server \d \[(.+?)\]", pool) == ["gpu1:56001", "gpu2:56001"]
    assert pool.count("free memory 4096 MiB / 4096 MiB") == 4
    assert gpu2.sh("flexdirect list_gpus").count("GPU ") == 2

    # On a server: its own GPU through the same layer, and a slice of it by run.
    out = gpu1.sh(f"flexdirect local -p 0.5 {app}")
    assert "PASS" in out
    out = gpu1.sh(f"flexdirect run -n 1 -m 2048 {app}")
    assert "PASS" in out and "with 2048 MiB of memory from server 0" in out
    assert ", 2048 MiB, " in out

    # How everything is.
    for server in (gpu1, gpu2):
        assert "PASS" in server.sh("flexdirect localhealth", status=None)
    health = client.sh("flexdirect health", status=None)
    for name in ("gpu1:56001", "gpu2:56001"):
        assert name in health
    assert health.count("[PASS] server answers: ") == 2, health
    smi = client.sh("flexdirect smi")
    assert smi.count("4096") >= 4

    # And what it is all for: any program, on any share of any GPU of the pool.
    out = client.sh(f"flexdirect run -n 1 -p 0.5 {app}")
    assert "Query server gpu1:56001 gpu availability" in out
    assert "Locked 1 GPUs with partial memory 0.5" in out
    assert ", 2048 MiB, 1 of 1" in out and "PASS" in out
    assert "Releasing GPUs from config file '/" in out
    assert "Released GPUs on 1 servers and removed generated config file '/" in out
    out = client.sh(f"flexdirect run -n 2 -l gpu2 -- {app}")
    assert ", 4096 MiB, 1 of 2" in out and "PASS" in out
    assert "over tcp" in gpu1.log() and "over tcp" in gpu2.log()

    # Nothing is left, and nothing of it was to be had without a key.
    whole = "free memory 4096 MiB / 4096 MiB"  # once the program's worker has ended, too
    until(lambda: gpu2.sh("flexdirect list_gpus").count(whole) == 2)
    client.sh("rm -r $HOME/.config/flexdirect/identity")
    refused = client.sh(f"flexdirect run -n 1 {app}", status=125)
    assert "flexdirect init" in refused

    gpu1.sh("systemctl reload fdserver")
    assert "Active: active (running)" in gpu1.sh("systemctl status fdserver")
    gpu1.sh("systemctl stop fdserver")
    assert "inactive (dead)" in gpu1.sh("systemctl status fdserver", status=3)


FETCH = "curl --silent --fail --location --cookie-jar /run/cookies http://127.0.0.1:54000/"


@pytest.mark.timeout(600)
def test_manager_of_a_server_is_at_the_address_that_they_knew(hosts):
    """After the set-up above: by default for the machine itself, which needs no login."""
    pytest.importorskip("nicegui", reason="the manager's packages are not installed")
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    gpu2 = hosts["gpu2"]
    gpu2.sh("systemctl enable --now fdserver-web")
    page = gpu2.sh(f"n=0; until {FETCH} || [ $n = 300 ]; do n=$((n + 1)); sleep 0.2; done")
    assert "<html" in page, page + gpu2.log()
    assert "fdcore" in page
    # Nobody else reaches it so.
    gpu1 = hosts["gpu1"]
    gpu1.sh(FETCH.replace("127.0.0.1", gpu2.address), status=7)
    gpu2.sh("systemctl stop fdserver-web")
