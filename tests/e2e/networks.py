#!/usr/bin/python3
"""Network namespaces for tests, and what can go wrong between them: lost packets, delay, a limited rate, partitions.

A hub and nodes, each node joined to the hub by a link of its own: 10.77.N.1 is the hub's end of node N's, 10.77.N.2 the
node's. nftables drops packets and tbf limits the rate. Many kernels have no netem, so packets are delayed by a relay
between two TUN devices, which is this file run as a program.

As a program without arguments: exit code 0 if tests may use namespaces here; else 1, and the reason on stdout.
With the arguments relay SECONDS NAMESPACE DEVICE NAMESPACE DEVICE: makes the devices, prints "ready" and carries packets
between them, each later by so long.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import select
import shutil
import struct
import subprocess
import sys
import time

TOOLS = ("ip", "tc", "nft")
TUNSETIFF = 0x400454CA
IFF_TUN_WITHOUT_HEADER = 0x1001
CLONE_NEWNET = 0x40000000
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
DROP_TABLE = "fedmoe_faults"


def run(*command, check=True):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False,
                          env=dict(os.environ, PATH=SEARCH_PATH))
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done


def why_not():
    """Why namespaces cannot be used here, in words; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in TOOLS:
        if shutil.which(tool, path=SEARCH_PATH) is None:
            return f"{tool} is not installed"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    name = f"fedmoe-{os.getpid()}-probe"
    try:
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "add", "left", "type", "veth", "peer", "name", "right")
        run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "left", "root", "tbf", "rate", "1mbit", "burst",
            "8kb", "latency", "1s")
        drop(name, 0.5)
    except RuntimeError as error:
        return f"this system does not allow it: {error}"
    finally:
        run("ip", "netns", "delete", name, check=False)
    return ""


def drop(namespace, share):
    """From now on this share of all packets is lost, on their way in and on their way out; 0 for none."""
    run("ip", "netns", "exec", namespace, "nft", "delete", "table", "inet", DROP_TABLE, check=False)
    if share <= 0.0:
        return
    verdict = "drop" if share >= 1.0 else f"numgen random mod 1000 < {round(1000 * share)} drop"
    chains = "\n".join(f"chain {hook} {{ type filter hook {hook} priority 0; {verdict}; }}" for hook in ("input", "output"))
    run("ip", "netns", "exec", namespace, "nft", f"table inet {DROP_TABLE} {{\n{chains}\n}}")


class Network:
    """A hub and its nodes. close() removes all of it."""

    def __init__(self, nodes, delay_s=0.0):
        self.prefix = f"fedmoe-{os.getpid()}"
        self.relays = []
        self.names = ["hub"] + [f"node-{i}" for i in range(nodes)]
        try:
            for name in self.names:
                run("ip", "netns", "add", self.namespace(name))
                run("ip", "-n", self.namespace(name), "link", "set", "lo", "up")
            for i in range(nodes):
                self.join(i, delay_s)
        except RuntimeError:
            self.close()
            raise

    def join(self, node, delay_s):
        hub, other = self.namespace("hub"), self.namespace(f"node-{node}")
        device = f"link{node}"
        if delay_s > 0.0:
            relay = subprocess.Popen([sys.executable, os.path.abspath(__file__), "relay", str(delay_s), hub, device, other,
                                      device], stdout=subprocess.PIPE, text=True)
            self.relays.append(relay)
            if relay.stdout.readline().strip() != "ready":
                raise RuntimeError("the relay did not start")
        else:
            run("ip", "-n", hub, "link", "add", device, "type", "veth", "peer", "name", device, "netns", other)
        for namespace, own, peer in ((hub, 1, 2), (other, 2, 1)):
            run("ip", "-n", namespace, "address", "add", f"10.77.{node}.{own}", "peer", f"10.77.{node}.{peer}", "dev", device)
            run("ip", "-n", namespace, "link", "set", device, "up")

    def namespace(self, name):
        return f"{self.prefix}-{name}"

    def within(self, name):
        """What to put before a command that is to run there."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def hub_address(self, node):
        return f"10.77.{node}.1"

    def lose(self, share, *nodes):
        for node in nodes:
            drop(self.namespace(f"node-{node}"), share)

    def limit(self, node, kilobits_per_s):
        """In both directions."""
        for name in ("hub", f"node-{node}"):
            run(*self.within(name), "tc", "qdisc", "replace", "dev", f"link{node}", "root", "tbf", "rate",
                f"{kilobits_per_s}kbit", "burst", "8kb", "latency", "1s")

    def close(self):
        for relay in self.relays:
            relay.kill()
            relay.wait()
            relay.stdout.close()
        for name in self.names:
            run("ip", "netns", "delete", self.namespace(name), check=False)


def open_tun(namespace, device):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as target:
        if libc.setns(target.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN_WITHOUT_HEADER))
    return tun


def relay(delay_s, left_namespace, left_device, right_namespace, right_device):
    left, right = open_tun(left_namespace, left_device), open_tun(right_namespace, right_device)
    print("ready", flush=True)
    order = itertools.count()
    under_way = []  # (due, order, to, packet)
    while True:
        wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select([left, right], [], [], wait_s)[0]:
            try:
                packet = os.read(end, 65536)
            except OSError:  # the device is not up yet
                time.sleep(0.001)
                continue
            heapq.heappush(under_way, (time.monotonic() + delay_s, next(order), right if end == left else left, packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, to, packet = heapq.heappop(under_way)
            try:
                os.write(to, packet)
            except OSError:  # full, or not up: lost, as packets are
                pass


def main(arguments):
    if arguments[:1] == ["relay"]:
        relay(float(arguments[1]), *arguments[2:])
        return 0
    reason = why_not()
    print(reason or "namespaces can be used")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
