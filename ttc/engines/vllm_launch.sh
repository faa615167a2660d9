#!/bin/sh
# Becomes one of vLLM's processes: it dies with the thread that asked for it, whatever kills that one, gets no Ctrl-C
# of its own, and writes its output to a file. A guard beside it ends all that it started and removes their folder, which
# is also where they put temporary files and sockets. See vllm_process.py.
exec "$TTC_ENGINE_PYTHON" -I -S -c '
import ctypes, os, shutil, signal, sys, time

prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: Linux only
    if os.getppid() != int(os.environ["TTC_ENGINE_OWNER"]):
        shutil.rmtree(os.environ["TTC_ENGINE_FOLDER"], ignore_errors=True)
        sys.exit(1)  # the owner died before the call
os.setpgid(0, 0)
core = os.getpid()
if prctl is not None and os.fork() == 0:
    # The workers are children of this process and not of the owner, and look after it only once they have started:
    # whatever ends it, the whole group ends with it. The guard leaves the group, so as to outlive it.
    os.setpgid(0, 0)
    os.closerange(0, 1 << 20)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    prctl(1, signal.SIGUSR2)
    while os.getppid() == core:
        signal.sigwait({signal.SIGUSR2})
    try:
        for _ in range(50):  # a worker that ends by itself gives its shared memory back
            os.killpg(core, 0)
            time.sleep(0.02)
        os.killpg(core, signal.SIGKILL)
    except OSError:
        pass  # nobody is left of it
    shutil.rmtree(os.environ["TTC_ENGINE_FOLDER"], ignore_errors=True)
    os._exit(0)
if os.environ["TTC_ENGINE_LOG"]:
    log = os.open(os.environ["TTC_ENGINE_LOG"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
# What vLLM leaves behind when it is killed shall lie where it is removed.
os.environ["TMPDIR"] = os.environ["TTC_ENGINE_FOLDER"]
os.execv(os.environ["TTC_ENGINE_PYTHON"], [os.environ["TTC_ENGINE_PYTHON"], *sys.argv[1:]])
' "$@"
