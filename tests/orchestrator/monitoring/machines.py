"""Machines as their sysfs shows them: GPUs, network cards and the bridges between, made in a folder."""

from pathlib import Path


class Machine:
    """root: what is ``/sys`` on a real one. gpus: their PCI addresses, in the order in which they were added."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gpus: list[str] = []

    def device(self, path: str, numa: int, **files: str) -> Path:
        """A PCI device below ``/sys/devices``; the last part of its path is its address."""
        folder = self.root / "devices" / path
        folder.mkdir(parents=True)
        for name, text in {"numa_node": str(numa), **files}.items():
            (folder / name).write_text(f"{text}\n")
        link = self.root / "bus" / "pci" / "devices" / folder.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder)
        return folder

    def gpu(self, path: str, numa: int) -> str:
        """Its address."""
        name = self.device(path, numa, vendor="0x10de", **{"class": "0x030200"}).name
        self.gpus.append(name)
        return name

    def card(self, path: str, name: str, numa: int, kind: str = "infiniband") -> None:
        """A network card; one of RDMA has a port with a link."""
        folder = self.device(path, numa, vendor="0x15b3", **{"class": "0x020700"})
        entry = self.root / "class" / kind / name
        entry.mkdir(parents=True)
        (entry / "device").symlink_to(folder)
        if kind == "infiniband":
            self.set_port(name, 1, "4: ACTIVE")

    def set_port(self, card: str, port: int, state: str) -> None:
        """What a port says of its link."""
        folder = self.root / "class" / "infiniband" / card / "ports" / str(port)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state").write_text(f"{state}\n")


def two_sockets(root: Path, *, switches: bool) -> Machine:
    """8 GPUs and 8 RDMA cards on 2 NUMA nodes, with an NVSwitch and the card of a storage network.

    switches: whether each GPU shares a switch with a card; else every device has a host bridge of its own.
    """
    machine = Machine(root)
    for number in range(8):
        bridge, numa = f"pci0000:{number + 1}0", number // 4
        gpu, card = f"0000:{number + 1}b:00.0", f"0000:{number + 1}8:00.0"
        if switches:
            switch = f"{bridge}/0000:{number + 1}0:01.0"
            machine.gpu(f"{switch}/{gpu}", numa)
            machine.card(f"{switch}/{card}", f"mlx5_{number}", numa)
        else:
            machine.gpu(f"{bridge}/{gpu}", numa)
            machine.card(f"pci0000:{number + 1}7/{card}", f"mlx5_{number}", numa)
    machine.device("pci0000:a0/0000:a1:00.0", 0, vendor="0x10de", **{"class": "0x068000"})
    if switches:
        machine.card("pci0000:b0/0000:b1:00.0", "mlx5_8", 1)
    return machine
