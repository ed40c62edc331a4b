"""Kills every command that writes at each moment of its writing, fills its disk, breaks it, and lets two write at once.

    python -m diffpose_edge.benchmarks.kill_campaign --scratch <folder> --out benchmarks/results/kill_campaign.json

After every try the older artefact or the newer one is there, whole, or the try counts as broken; the command, run again, succeeds and
leaves nothing of the try behind. Mounts need root; without it they are recorded as not run.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.kill_cases import Case, Whole, cases_of, command_line, make_materials
from diffpose_edge.benchmarks.killable import STUCK_S, Ended, Killable
from diffpose_edge.benchmarks.machine import processor, versions
from diffpose_edge.cli.script import run_script

# A disk of this size is mounted for a command, and filled up to what is to be left.
DISK_MIB = 64
SHARES_LEFT = (0.0, 0.05, 0.4, 0.8)
READ_ONLY_TRIES = 6


class Campaign:
    """One case after the other, in ``scratch``; what was found so far is in ``results`` at any time."""

    def __init__(self, scratch: Path, most: int, at_random: int, errors: int, disks: bool, seed: int):
        self.scratch, self.most, self.at_random, self.errors, self.disks = scratch, most, at_random, errors, disks
        self.live, self.told = scratch / "live", scratch / "told"
        self.random = random.Random(seed)
        self.results: dict[str, Any] = {}

    def case(self, case: Case, whole_runs: int) -> dict[str, Any]:
        """Do everything to a case, and return the record of it."""
        record: dict[str, Any] = {"broken": []}
        self._reset(case)
        with Killable(lambda: command_line(case.arguments(self.live)), self.live, self.told) as command:
            before = case.whole(self.live)
            first = command.go_on()
            if first.status:
                raise RuntimeError(f"{case.name} fails by itself: {first.said[-2000:]}")
            after, left = case.whole(self.live), self._names()
            record |= {"calls": first.calls, "seconds_from_the_first_write_on": round(first.seconds, 2)}
            tries = _Tries(self, case, command, before, after, left, record)
            record["killed_before_each_call"] = tries.swept("killed", first.calls, self.most)
            record["killed_at_random_while_writing"] = tries.at_random(first.seconds, self.at_random)
            record["input_output_error_from_each_call_on"] = tries.swept("input/output error", first.calls, self.errors)
            record["full_disk"], record["read_only"] = tries.mounted(first.calls) if self.disks else ("not run", "not run")
        record["killed_at_random_from_the_start"] = self._whole_runs(case, whole_runs, before, after, left, record) if whole_runs else {}
        return record

    def _whole_runs(self, case: Case, count: int, before: Whole, after: Whole, left: set[str], record: dict[str, Any]) -> dict[str, int]:
        outcomes: Counter[str] = Counter()
        self._reset(case)
        began = time.monotonic()
        self._run(case, STUCK_S)
        lasted = time.monotonic() - began
        record["seconds_as_a_whole"] = round(lasted, 2)
        for _ in range(count):
            self._reset(case)
            status, _ = self._run(case, self.random.uniform(0.0, lasted))
            outcomes["tries"] += 1
            outcomes[f"status {status}"] += 1
            outcomes[judged(case, self.live, before, after, record)] += 1
            status, said = self._run(case, STUCK_S)
            again(case, Ended(status, 0, 0.0, said), case.whole(self.live), after, self._names() - left, outcomes, record)
        return dict(outcomes)

    def _run(self, case: Case, seconds: float) -> tuple[int, str]:
        """Run the whole command in a process group of its own; kill it after so many seconds."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
            log = os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os._exit(command_line(case.arguments(self.live)))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), self.told.read_text(encoding="utf-8", errors="replace")
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return -9, ""

    def _reset(self, case: Case) -> None:
        self.live.mkdir(exist_ok=True)
        for path in self.live.iterdir():  # not the folder itself: a disk may be mounted there
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        case.before(self.live)

    def _names(self) -> set[str]:
        return {str(path.relative_to(self.live)) for path in self.live.rglob("*")} - {"lost+found"}


def judged(case: Case, live: Path, before: Whole, after: Whole, record: dict[str, Any]) -> str:
    """Return what is there: "older", "newer", "some of it newer" where a command makes several, or "broken"."""
    try:
        found = case.whole(live)
    except Exception as err:
        record["broken"].append(f"{type(err).__name__}: {err}"[:300])
        return "broken"
    if found == before:
        return "older"
    return "newer" if found == after else "some of it newer"


def again(case: Case, ended: Ended, found: Whole, after: Whole, litter: set[str], outcomes: Counter[str], record: dict[str, Any]) -> None:
    """Count how the command ended that was run again."""
    refused = bool(case.made_already) and ended.status == 2 and case.made_already in ended.said
    if found != after or not (ended.status == 0 or refused):
        outcomes["run again: failed"] += 1
        record["broken"].append(f"run again: {ended.status}, {ended.said[-300:]}")
    elif litter - {""} and not refused:
        outcomes["run again: litter left"] += 1
        record["broken"].append(f"litter: {sorted(litter)[:5]}")
    else:
        outcomes["run again: refused, it is there" if refused and ended.status else "run again: succeeded"] += 1


class _Tries:
    """Tries of one command, from its first write on."""

    def __init__(
        self, campaign: Campaign, case: Case, command: Killable, before: Whole, after: Whole, left: set[str], record: dict[str, Any]
    ):
        self._campaign, self._case, self._command = campaign, case, command
        self._before, self._after, self._left, self._record = before, after, left, record

    def swept(self, how: str, calls: int, most: int) -> dict[str, int]:
        """Try every call, or ``most`` of them, spread over all."""
        numbers = range(1, calls + 1) if calls <= most else sorted({round(1 + i * (calls - 1) / (most - 1)) for i in range(most)})
        outcomes: Counter[str] = Counter()
        for number in numbers:
            self._once(how, number, outcomes)
        return dict(outcomes)

    def at_random(self, seconds: float, count: int) -> dict[str, int]:
        """Kill after a time that is uniform over what writing takes."""
        outcomes: Counter[str] = Counter()
        for _ in range(count):
            self._once("killed after", self._campaign.random.uniform(0.0, seconds), outcomes)
        return dict(outcomes)

    def _once(
        self,
        how: str,
        at: float,
        outcomes: Counter[str],
        prepare: Callable[[], None] = lambda: None,
        mend: Callable[[], object] = lambda: None,
    ) -> Ended:
        campaign, case = self._campaign, self._case
        campaign._reset(case)
        prepare()
        ended = self._command.go_on(how, at)
        outcomes[judged(case, campaign.live, self._before, self._after, self._record)] += 1
        if not how.startswith("killed") and ended.status not in (0, 2):
            outcomes["ended in another way than with an error's text and status 2"] += 1
            self._record["broken"].append(f"{how} at {at}: {ended.status}, {ended.said[-300:]}")
        outcomes["tries"] += 1
        outcomes[f"status {ended.status}"] += 1
        mend()
        second = self._command.go_on()
        again(case, second, case.whole(campaign.live), self._after, campaign._names() - self._left, outcomes, self._record)
        return ended

    def mounted(self, calls: int) -> tuple[dict[str, int] | str, dict[str, int] | str]:
        """On a small disk of their own: filled, and made read-only in the middle of writing."""
        live, filler = self._campaign.live, self._campaign.live / "filler"
        full, read_only = Counter[str](), Counter[str]()
        with small_disk(live) as mounted:
            if mounted:
                return mounted, mounted
            for share in SHARES_LEFT:

                def fill(share: float = share) -> None:
                    stat = os.statvfs(live)
                    room = int(stat.f_bavail * stat.f_frsize - share * self._case.bulk)
                    with open(filler, "wb") as file:
                        os.posix_fallocate(file.fileno(), 0, max(1, room))

                self._once("whole", 0, full, fill, filler.unlink)
            for number in sorted({1 + round(i * (calls - 1) / (READ_ONLY_TRIES - 1)) for i in range(READ_ONLY_TRIES)}):
                self._once("read-only", number, read_only, mend=lambda: _mount("-o", "remount,rw", str(live)))
            return dict(full), dict(read_only)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """Mount a small file system on ``folder`` and yield "", or yield why that cannot be done."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused = _mount("-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder))
    yield refused and f"not run: {refused}"
    if not refused:
        subprocess.run(["umount", str(folder)], check=True)


def _mount(*arguments: str) -> str:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def two_at_once(campaign: Campaign, cases: Sequence[Case], rounds: int) -> dict[str, int]:
    """Let two commands write at the same moment, and load what is there all the while."""
    first = cases[0]
    outcomes: Counter[str] = Counter()
    campaign._reset(first)
    actions = [lambda case=case: command_line(case.arguments(campaign.live)) for case in cases]
    with (
        Killable(actions[0], campaign.live, campaign.scratch / "told0") as one,
        Killable(actions[1], campaign.live, campaign.scratch / "told1") as other,
    ):
        for _ in range(rounds):
            campaign._reset(first)
            loads, stop = _loading(first, campaign.live)
            pause = campaign.random.uniform(-0.05, 0.05)
            for command, wait in ((one, max(0.0, pause)), (other, max(0.0, -pause))):
                time.sleep(wait)
                command.begin()
            ends = sorted((each.ended() for each in (one, other)), key=lambda ended: ended.status)
            outcomes[" and ".join("succeeded" if each.status == 0 else f"refused ({each.status})" for each in ends)] += 1
            for each in ends:
                if each.status not in (0, 2):
                    outcomes[f"unclear: {each.said[-200:]}"] += 1
            stop()
            outcomes["loads meanwhile, each whole"] += loads[0]
            outcomes["loads meanwhile that failed"] += loads[1]
            first.whole(campaign.live)
            outcomes["rounds"] += 1
            litter = [name for name in campaign._names() if "partial" in name or "replaced" in name]
            outcomes["litter"] += len(litter)
    return dict(outcomes)


def _failure(case: Case, live: Path) -> str:
    """Read what is there; return why that cannot be done, or nothing."""
    try:
        case.whole(live)
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return ""


def _loading(case: Case, live: Path) -> tuple[list[int], Callable[[], None]]:
    """Read what is there over and over in another process, until told to stop; the list then has how often that went well and failed."""
    reading, writing = os.pipe()
    pid, counts = os.fork(), [0, 0]
    if pid == 0:
        ended = False

        def stop(number: int, frame: object) -> None:
            nonlocal ended
            ended = True

        signal.signal(signal.SIGTERM, stop)
        why = ""
        while not ended:
            failed = _failure(case, live)
            counts[1 if failed else 0] += 1
            why = failed or why
        os.write(writing, json.dumps([*counts, why]).encode())
        os._exit(0)

    def told_to_stop() -> None:
        time.sleep(0.05)
        os.kill(pid, signal.SIGTERM)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            good, bad, why = json.loads(file.read())
        os.waitpid(pid, 0)
        counts[:] = [good, bad]
        if why:
            print(why)

    return counts, told_to_stop


def main(
    scratch: Annotated[Path, typer.Option(help="Folder to work in, on a disk; it is made.")],
    out: Annotated[Path, typer.Option(help="JSON of what was found, written anew after each command.")],
    only: Annotated[list[str] | None, typer.Option(help="Commands to try (default: all).")] = None,
    most: Annotated[int, typer.Option(help="Calls of each command before which it is killed, at most.", min=2)] = 60,
    at_random: Annotated[int, typer.Option(help="Kills of each command at random moments of its writing.")] = 20,
    errors: Annotated[int, typer.Option(help="Calls of each command from which on the disk fails, at most.", min=2)] = 60,
    disks: Annotated[bool, typer.Option(help="Mount small disks, full ones and read-only ones; needs root.")] = True,
    go_on: Annotated[bool, typer.Option("--go-on", help="Keep what OUT has of other commands, from an earlier run.")] = False,
    whole_runs: Annotated[int, typer.Option(help="Whole runs of each command that are killed at a random moment.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds of each pair of commands at once.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the random moments.")] = 0,
) -> None:
    """Try it all, and write what was found."""
    import torch

    import diffpose_edge.calibration.calibrate
    import diffpose_edge.cli.app
    import diffpose_edge.export
    import diffpose_edge.export.bundle_engines
    import diffpose_edge.reference.training.pair
    import diffpose_edge.runtime.bridges.bags

    torch.set_num_threads(1)
    campaign = Campaign(scratch.resolve(), most, at_random, errors, disks, seed)
    if not (scratch / "materials").is_dir():
        _in_a_child(lambda: make_materials(scratch.resolve() / "materials"))
    cases = {case.name: case for case in cases_of(scratch.resolve() / "materials")}
    commands: dict[str, Any] = {}
    pairs: dict[str, Any] = {}
    if go_on and out.exists():
        earlier = json.loads(out.read_text(encoding="utf-8"))
        commands, pairs = earlier["commands"], earlier["two_at_once"]
    known = {command.name for command in diffpose_edge.cli.app.app.registered_commands}
    for name, case in cases.items():
        if only and name not in only:
            continue
        if name == "sign" and "sign" not in known:
            commands[name] = "not run: there is no such command yet"
            continue
        began = time.monotonic()
        commands[name] = campaign.case(case, whole_runs)
        print(f"{name}: {time.monotonic() - began:.0f} s, {json.dumps(commands[name])[:300]}", flush=True)
        _write(out, commands, pairs, seed)
    for names in (
        ("calibrate", "export, in place of another"),
        ("calibrate", "calibrate"),
        ("replay", "replay"),
        ("train", "train"),
        ("evaluate",) * 2,
    ):
        if not only or set(names) <= set(only):
            pairs[" and ".join(names)] = two_at_once(campaign, [cases[name] for name in names], rounds)
            print(names, pairs[" and ".join(names)], flush=True)
            _write(out, commands, pairs, seed)


def _in_a_child(action: Callable[[], None]) -> None:
    """Run it in a fork, so that this process starts no threads, which its later children would not have."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the materials could not be made")


def _write(out: Path, commands: dict[str, Any], pairs: dict[str, Any], seed: int) -> None:
    done = [each for each in commands.values() if isinstance(each, dict)]
    killed = ("killed_before_each_call", "killed_at_random_while_writing", "killed_at_random_from_the_start")
    report = {
        "what": "commands that were killed, refused by a full or broken disk, or run two at once, and what was there afterwards",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "platform": platform.platform(),
        "versions": versions(("onnxruntime", "numpy", "torch", "onnx", "rosbags", "tensorrt_rtx")),
        "seed": seed,
        "kills": sum(_count(each[kind]) for each in done for kind in killed),
        "broken": sum(len(each["broken"]) for each in done),
        "commands": commands,
        "two_at_once": pairs,
    }
    with atomic_file(out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _count(outcomes: dict[str, int]) -> int:
    return outcomes.get(f"status {-signal.SIGKILL}", 0)


if __name__ == "__main__":
    run_script(main)
