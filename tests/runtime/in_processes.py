"""What happens to a runtime in other processes: a program that forks with one loaded, and tells what each call said, as JSON.

Forks in a process of its own, and not in the tests': a child may hang, and the program ends then at its time limit.
"""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from diffpose_edge.runtime import PoseRuntime, PoseStream

PEOPLE = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 17, 2)).astype(np.float32)
_own: list[PoseRuntime] = []


def digest(runtime: PoseRuntime) -> str:
    return hashlib.sha256(runtime.estimate(PEOPLE, seed=5).joints.tobytes()).hexdigest()


def said(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return "nothing"


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Fork, and return what the child found."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Here alone: one that the parent had set could not be set anew, its thread is not here.
        faulthandler.dump_traceback_later(60, exit=True)
        status = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    found: dict[str, Any] = json.loads(told) if told else {}
    return {"status": os.waitpid(pid, 0)[1], **found}


def forked(bundle: str) -> dict[str, Any]:
    runtime = PoseRuntime.load(bundle, threads=2)
    expected = digest(runtime)
    future = runtime.estimate_async(PEOPLE, seed=5)  # so that there is a pool
    future.result()
    threaded, own = PoseStream(runtime, seed=0), PoseStream(runtime, seed=0)
    threaded.push(PEOPLE, 0)
    threaded.get(60)
    own.process(PEOPLE, 0)

    def child() -> dict[str, Any]:
        calls = {
            "estimate": lambda: runtime.estimate(PEOPLE),
            "estimate_async": lambda: runtime.estimate_async(PEOPLE),
            "describe": runtime.describe,
            "measure": lambda: runtime.measure((1,), save=False),
            "push": lambda: threaded.push(PEOPLE, 1),
            "get": threaded.get,
            "process": lambda: own.process(PEOPLE, 1),
            "flush": own.flush,
        }
        found: dict[str, Any] = {"said": {name: said(call) for name, call in calls.items()}}
        found["closed"] = [said(each.close) for each in (threaded, own, runtime, runtime)]
        with PoseRuntime.load(bundle, threads=2) as another:
            found["digest"] = digest(another)
        return found

    def child_that_lets_go() -> dict[str, Any]:
        nonlocal runtime, threaded, own
        del runtime, threaded, own
        gc.collect()
        return {"let_go": True}

    # At the fork a thread is in the middle of an estimate: it has the lock, which nobody gives back in the child.
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with runtime._lock:
            held.set()
            go_on.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    first = in_child(child)
    go_on.set()
    holder.join()
    second = in_child(child_that_lets_go)
    after = digest(runtime)
    threaded.close()
    own.close()
    runtime.close()
    return {"expected": expected, "after": after, "child": first, "child_that_lets_go": second}


def load_own(bundle: str) -> None:
    _own.append(PoseRuntime.load(bundle, threads=1))


def own_digest(_: int) -> str:
    return digest(_own[0])


def given_digest(runtime: PoseRuntime) -> str:
    return digest(runtime)


def pooled(bundle: str, method: str) -> dict[str, Any]:
    context = multiprocessing.get_context(method)
    with PoseRuntime.load(bundle, threads=1) as runtime, context.Pool(2, load_own, (bundle,)) as pool:
        expected = digest(runtime)
        found = pool.map_async(own_digest, range(6)).get(60)
        sent = said(lambda: pool.apply_async(given_digest, (runtime,)).get(60))
        with PoseStream(runtime) as stream:
            pickled = [said(lambda: pickle.dumps(runtime)), said(lambda: pickle.dumps(stream))]
    return {"expected": expected, "found": sorted(set(found)), "sent": sent, "pickled": pickled}


if __name__ == "__main__":
    _, what, bundle, *rest = sys.argv
    print(json.dumps(forked(bundle) if what == "forked" else pooled(bundle, *rest)))
