"""Every audit event of CPython, and what becomes of what it announces within an execution.

CPython tells its audit hooks of whatever it does that reaches beyond the interpreter
(https://docs.python.org/3/library/audit_events.html). A test compares this table with those of the
supported versions, so that nothing is let through because nobody thought of it. What is not in the
table is a program's own event.
"""

from __future__ import annotations

from enum import Enum


class Allowed(Enum):
    """Why what it announces happens as on stock Python."""

    WITHIN = "it stays within the process"
    READS = "it reads of the machine what an execution does not change"
    PERSISTS = "it changes what outlives an execution: files, the environment, limits and logs"
    BELOW = "what it does has an event of its own"


class Refused(Enum):
    """What does not happen, with what its user can do instead."""

    PROCESS = (
        "a process lives in real time, where nothing can be replayed; let the program call a "
        "function in its place, which returns what the process would, after world.outside(…) if "
        "its moment matters; or run the process before the exploration"
    )
    NETWORK = (
        "it reaches another machine, or another process; put what stands behind it into the "
        "program as a coroutine that awaits world.outside(…), or give the library an in-memory "
        "transport"
    )
    THREAD = "use threading.Thread, asyncio.to_thread or an executor, which are simulated"
    INTERPRETER = (
        "what another interpreter does cannot be observed; use asyncio.to_thread or a "
        "ThreadPoolExecutor, which are simulated"
    )
    SLEEP = (
        "it would sleep in real time: who called it had bound the function before the exploration; "
        "call time.sleep by its module, which is simulated"
    )
    PERSON = "nobody answers within an execution; give the program the answer, or world.choose(…)"
    OTHERS_SIGNAL = (
        "it signals another process or thread; os.kill on the own process, signal.raise_signal and "
        "world.signal(…) are simulated"
    )
    REAL_TIME = (
        "it waits for the world outside, where time is real; let the program await "
        "world.outside(…), asyncio.sleep or an asyncio.Event in its place"
    )
    FILE_LOCK = (
        "it waits in real time for the holder of a file's lock, who may be one that waits here; "
        "ask for it without waiting (LOCK_NB), and sleep between two tries"
    )
    OWN_END = (
        "it ends the process that explores, before there is a verdict; raise SystemExit, which "
        "ends the loop, or signal the own process by os.kill, which is simulated"
    )
    PROCESSES_LOCK = (
        "it belongs to several processes, and would block all of this one; use threading's or "
        "asyncio's own, which are simulated, and in the place of multiprocessing.pool.ThreadPool, "
        "which has one, concurrent.futures.ThreadPoolExecutor"
    )


EVENTS: dict[str, Allowed | Refused] = {}


def _are(fate: Allowed | Refused, names: str) -> None:
    EVENTS.update(dict.fromkeys(names.split(), fate))


_are(
    Allowed.WITHIN,
    """
    _winapi.CreateFile _winapi.CreateNamedPipe _winapi.CreatePipe
    array.__new__ builtins.breakpoint builtins.id builtins.input/result code.__new__ compile
    cpython.PyConfig_Set cpython.PyInterpreterState_Clear cpython._PySys_ClearAuditHooks
    cpython.remote_debugger_script cpython.run_command cpython.run_file
    cpython.run_interactivehook cpython.run_module cpython.run_startup cpython.run_stdin
    ctypes.PyObj_FromPtr ctypes.addressof ctypes.call_function ctypes.cdata ctypes.cdata/buffer
    ctypes.create_string_buffer ctypes.create_unicode_buffer ctypes.dlopen ctypes.dlsym
    ctypes.dlsym/handle ctypes.get_errno ctypes.get_last_error ctypes.memoryview_at
    ctypes.seh_exception ctypes.set_errno ctypes.set_exception ctypes.set_last_error
    ctypes.string_at ctypes.wstring_at
    exec function.__new__ gc.get_objects gc.get_referents gc.get_referrers import
    marshal.dumps marshal.load marshal.loads mmap.__new__
    msvcrt.get_osfhandle msvcrt.open_osfhandle
    object.__delattr__ object.__getattr__ object.__setattr__ pdb.Pdb pickle.find_class
    setopencodehook socket.__new__ sqlite3.connect/handle sqlite3.enable_load_extension
    sqlite3.load_extension
    sys._current_exceptions sys._current_frames sys._getframe sys._getframemodulename
    sys.addaudithook sys.excepthook sys.monitoring.register_callback
    sys.set_asyncgen_hook_finalizer sys.set_asyncgen_hook_firstiter
    sys.set_asyncgen_hooks_finalizer sys.set_asyncgen_hooks_firstiter
    sys.setprofile sys.settrace sys.unraisablehook
    """,
)
_are(
    Allowed.READS,
    """
    glob.glob glob.glob/2 os.fwalk os.getxattr os.listdir os.listdrives os.listmounts
    os.listvolumes os.listxattr os.scandir os.walk pathlib.Path.glob pathlib.Path.rglob
    pathlib.Path.walk socket.gethostname socket.getservbyname socket.getservbyport
    winreg.EnumKey winreg.EnumValue winreg.ExpandEnvironmentStrings winreg.OpenKey
    winreg.OpenKey/result winreg.PyHKEY.Detach winreg.QueryInfoKey winreg.QueryReflectionKey
    winreg.QueryValue
    """,
)
_are(
    Allowed.PERSISTS,
    """
    _winapi.CreateJunction fcntl.fcntl fcntl.ioctl open os._clearenv os.add_dll_directory os.chdir
    os.chflags os.chmod os.chown os.link os.mkdir os.putenv os.remove os.removexattr os.rename
    os.rmdir os.setxattr os.symlink os.truncate os.unsetenv os.utime
    resource.prlimit resource.setrlimit shutil.chown shutil.copyfile shutil.copymode
    shutil.copystat shutil.copytree shutil.make_archive shutil.move shutil.rmtree
    shutil.unpack_archive socket.sethostname sqlite3.connect
    syslog.closelog syslog.openlog syslog.setlogmask syslog.syslog tempfile.mkdtemp
    tempfile.mkstemp
    winreg.CreateKey winreg.DeleteKey winreg.DeleteTree winreg.DeleteValue
    winreg.DisableReflectionKey winreg.EnableReflectionKey winreg.LoadKey winreg.SaveKey
    winreg.SetValue
    """,
)
# A library may be given a transport in memory: what is refused is the socket, or the process.
_are(
    Allowed.BELOW,
    """
    ensurepip.bootstrap ftplib.connect ftplib.sendcmd http.client.connect http.client.send
    imaplib.open imaplib.send nntplib.connect nntplib.putline poplib.connect poplib.putline
    smtplib.connect smtplib.send telnetlib.Telnet.open telnetlib.Telnet.write urllib.Request
    webbrowser.open
    """,
)
_are(
    Refused.PROCESS,
    """
    _posixsubprocess.fork_exec _winapi.CreateProcess _winapi.OpenProcess
    _winapi.TerminateProcess os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile
    os.startfile/2 os.system pty.spawn subprocess.Popen sys.remote_exec
    """,
)
_are(
    Refused.NETWORK,
    """
    socket.bind socket.connect socket.getaddrinfo socket.gethostbyaddr socket.gethostbyname
    socket.getnameinfo socket.sendmsg socket.sendto winreg.ConnectRegistry
    """,
)
_are(Refused.OTHERS_SIGNAL, "os.kill os.killpg signal.pthread_kill")
_are(Refused.PERSON, "builtins.input")
_are(Refused.INTERPRETER, "cpython.PyInterpreterState_New")
# These have stand-ins, which raise no event: who raises one has found a way around them.
_are(Refused.THREAD, "_thread.start_new_thread _thread.start_joinable_thread")
_are(Refused.SLEEP, "time.sleep")
_are(Refused.FILE_LOCK, "fcntl.flock fcntl.lockf msvcrt.locking os.lockf")
