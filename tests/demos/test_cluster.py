"""`demos.batch` on a Ray cluster: two nodes on this machine, one of which is killed in the middle."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from batch_runs import images, run

from demos import painting
from demos.manifest import inside, pictures
from tinyworld import WEIGHTS

# Ray reads these when it is imported. Else nodes ask for a token wherever a local cluster was started before, which
# drivers show to none that is given by its address, and ask for nothing elsewhere.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # starting Ray takes seconds, and so does loading the model on every node


def node(*options):
    """Starts one on this machine; its workers import the packages from here."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)


def alive(address):
    """How many nodes the cluster has."""
    try:
        with socket.create_connection(address.split(":"), 1):
            ray.init(address, log_to_driver=False)
    except OSError:
        return 0
    try:
        return sum(found["Alive"] for found in ray.nodes())
    finally:
        ray.shutdown()


def join(count, address, *options):
    """Starts a node, again where a busy machine was too slow for it, and waits until it is one of `count`."""
    process, until = node(*options), time.monotonic() + 240
    while alive(address) < count:
        if process.poll() is not None:
            process = node(*options)
        if time.monotonic() > until:
            stop(process)
            raise TimeoutError(f"there are no {count} nodes")
        time.sleep(0.5)
    return process


def stop(process):
    """Kills a node with all its processes."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def nodes():
    """A head that makes nothing and two nodes with a core each: ``(address, [process, process])``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, store = f"127.0.0.1:{port}", "--object-store-memory=100000000"
    started = []
    try:
        started.append(join(1, address, "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", store))
        for count in (2, 3):
            started.append(join(count, address, f"--address={address}", "--num-cpus=1", store))
        yield address, started[1:]
    finally:
        ray.shutdown()
        for process in reversed(started):
            stop(process)


def test_a_node_that_dies_loses_nothing(nodes, prompts, ram):
    address, workers = nodes
    out = ram / "study"
    count = 3 * 2 * 3  # prompts, methods and seeds

    def kill():
        while not (out / "manifest.sqlite").is_file() or len(pictures(out)) < 4:
            time.sleep(0.05)
        stop(workers[0])

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    made = []
    keep = painting.Manifest.add
    painting.Manifest.add = lambda self, *args, **kwargs: (
        made.extend(kwargs.get("images", ())),
        keep(self, *args, **kwargs),
    )[1]
    try:
        run(prompts, out, "--ray", address, "--batch-size", "1", "--steps", "8", "--device", "cpu")
    finally:
        painting.Manifest.add = keep
    killer.join(10)
    assert workers[0].poll() is not None
    keys = [image.key for image in made]
    assert len(keys) == len(set(keys)) == count == len(images(out))  # nothing lost, nothing made twice
    assert all(inside(out, image.file).is_file() for image in images(out))
    assert not list(out.glob(".partial*"))
    alone = ram / "alone"
    run(prompts, alone, "--batch-size", "1", "--steps", "8", "--device", "cpu")
    for image in images(out):  # and the pictures are those of one process
        assert inside(out, image.file).read_bytes() == inside(alone, image.file).read_bytes()


def test_what_cannot_be_loaded_is_said_once(prompts, ram, capfd):
    shutil.copytree(WEIGHTS / "text_to_image", ram / "model")
    (ram / "model" / "unet" / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        run(prompts, ram / "study", "--ray", "local", "--model", str(ram / "model"))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and "argument --model, --evaluators: cannot be loaded" in lines[0]


def test_no_cluster(prompts, ram, capfd):
    with pytest.raises(SystemExit):
        run(prompts, ram / "study", "--ray", "127.0.0.1:1")
    assert "argument --ray: there is no cluster at '127.0.0.1:1'" in capfd.readouterr().err
