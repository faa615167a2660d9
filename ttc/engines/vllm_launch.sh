#!/bin/sh
# Becomes one of vLLM's processes: it dies with the thread that asked for it, whatever kills that one, gets no Ctrl-C
# of its own, and writes its output to a file. See vllm_process.py.
exec "$TTC_ENGINE_PYTHON" -I -S -c '
import ctypes, os, signal, sys

prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: Linux only
    if os.getppid() != int(os.environ["TTC_ENGINE_OWNER"]):
        sys.exit(1)  # the owner died before the call
os.setpgid(0, 0)
if os.environ["TTC_ENGINE_LOG"]:
    log = os.open(os.environ["TTC_ENGINE_LOG"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
os.execv(os.environ["TTC_ENGINE_PYTHON"], [os.environ["TTC_ENGINE_PYTHON"], *sys.argv[1:]])
' "$@"
