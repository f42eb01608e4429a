"""Run a script in a process that looks like Windows to the package: ``python windows.py SCRIPT``.

What the modules of ``recdqn`` import is changed, and not what other libraries do, which have their own ways
on Windows: modules and names that exist only on POSIX are missing, and the platform has another name. In the
whole process, a file that is open or mapped can be neither removed nor replaced.
"""

import builtins
import os
import signal
import sys
import types

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
NAMES = {
    "os": (
        "O_DIRECTORY O_NOFOLLOW O_NONBLOCK WNOHANG chown chroot fchown fork forkpty getegid geteuid getgid "
        "getloadavg getpgid getpgrp getpriority getsid getuid killpg lockf mkfifo mknod nice openpty "
        "posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev register_at_fork "
        "sched_getaffinity sched_setaffinity sendfile setpgid setsid statvfs sysconf uname wait wait3"
    ).split(),
    "signal": (
        "ITIMER_PROF ITIMER_REAL ITIMER_VIRTUAL SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT "
        "SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm getitimer pause pthread_kill pthread_sigmask setitimer "
        "siginterrupt sigpending sigtimedwait sigwait sigwaitinfo"
    ).split(),
    "time": ["clock_gettime", "pthread_getcpuclockid", "tzset"],
    "sys": [],
}
CHANGED = {"os": {"name": "nt"}, "sys": {"platform": "win32"}}
SIGNALS = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGSEGV, signal.SIGTERM}


def without(name):
    """Return a module without the names that Windows does not have."""
    real, missing, changed = sys.modules[name], set(NAMES[name]), CHANGED.get(name, {})
    module = types.ModuleType(name)

    def get(attribute):
        if attribute in missing:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        return changed[attribute] if attribute in changed else getattr(real, attribute)

    module.__getattr__ = get
    return module


def handle(number, handler):
    """Do what ``signal.signal`` does."""
    if number not in SIGNALS:
        raise ValueError("invalid signal value")
    return signal.signal(number, handler)


def in_use():
    """Return the files that this process has open or mapped."""
    paths = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            paths.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    with open("/proc/self/maps", encoding="utf-8") as maps:
        paths |= {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line}
    return paths


def audit(event, arguments):
    """Refuse to remove or to replace what is in use."""
    if event == "os.remove":
        places = [arguments[:2]]
    elif event == "os.rename":
        places = [arguments[::2], arguments[1::2]]
    else:
        return
    for path, folder in places:
        path = os.fsdecode(path)
        if folder != -1:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        path = os.path.realpath(path)
        used = [file for file in in_use() if file == path or file.startswith(f"{path}/")]
        if any(map(os.path.isfile, used)) and not path.startswith("/dev/"):  # multiprocessing's memory
            raise PermissionError(13, "The process cannot access the file: it is used by a process", path)


def pretend():
    """Make this process look like Windows from now on."""
    plain, rename = builtins.__import__, os.rename
    modules = {name: without(name) for name in NAMES}
    CHANGED["signal"] = {"signal": handle}
    modules["signal"] = without("signal")

    def import_module(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 and str((globals or {}).get("__name__")).split(".")[0] == "recdqn":
            if name in MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in modules:
                return modules[name]
        return plain(name, globals, locals, fromlist, level)

    def rename_to_new(old, new, **folders):
        if os.path.exists(new):
            raise FileExistsError(17, "Cannot create a file when that file already exists", str(new))
        rename(old, new, **folders)

    builtins.__import__, os.rename = import_module, rename_to_new
    sys.addaudithook(audit)


pretend()  # in worker processes as well, which import this file

if __name__ == "__main__":
    exec(sys.argv[1], {"__name__": "__main__"})
