//! Storey 3: Unix socket addresses, and the few calls that std does not offer safely.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use polling::{Event, PollMode, Poller};

/// Connections the system keeps for us until they are accepted.
const BACKLOG: i32 = 128;
/// How long a connection attempt to a socket file may take before the file counts as one with a listener.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects. On a Unix socket that succeeds or fails at once, unless the listener's queue is full and the
/// system makes the caller wait; that wait ends after `timeout`.
///
/// # Errors
/// `TimedOut` after that time; `Interrupted` when a signal came meanwhile (nothing has happened then); else the
/// error of the operating system.
pub fn connect(path: &Path, timeout: Option<Duration>) -> io::Result<UnixStream> {
    let (address, length) = address_of(path)?;
    let stream = UnixStream::from(new_socket()?);
    // Zero would mean no limit.
    stream.set_write_timeout(timeout.map(|timeout| timeout.max(Duration::from_millis(1))))?;
    // SAFETY: the address is initialised and `length` is its size.
    check(unsafe { libc::connect(stream.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) })
        .map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "Connection timeout"),
            _ => error,
        })?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Connects to see whether there is a listener; signals do not end it.
fn probe(path: &Path) -> io::Result<UnixStream> {
    let deadline = Instant::now() + PROBE_TIMEOUT;
    loop {
        match connect(path, Some(deadline.saturating_duration_since(Instant::now()))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Listens with mode 0600 from the first moment, so that every process of the user that finds the file can connect. A
/// socket file without a listener is replaced; one with a listener, and a file that is not a socket, stay as they are.
///
/// # Errors
/// `AddrInUse` when another process listens, or the file is not a socket; else the error of the operating system.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    address_of(path)?;
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        match probe(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) if error.kind() != io::ErrorKind::TimedOut => return Err(error),
            Ok(_) | Err(_) => {
                let text = format!("another daemon listens on {}", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
        }
    }
    // A bound socket refuses connections until it listens, so it gets its name afterwards.
    let hidden = path.with_file_name(format!(".{}", &uuid::Uuid::new_v4().simple().to_string()[..7]));
    if address_of(&hidden).is_err() {
        return listen_at(path);
    }
    let listener = listen_at(&hidden);
    let named = listener.and_then(|listener| std::fs::hard_link(&hidden, path).map(|()| listener));
    let _never_made = std::fs::remove_file(&hidden);
    named.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            io::Error::new(io::ErrorKind::AddrInUse, format!("{} is in use", path.display()))
        }
        _ => error,
    })
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let (address, length) = address_of(path)?;
    let socket = new_socket()?;
    // SAFETY: the address is initialised and `length` is its size.
    check(unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) })?;
    // No connection is possible before `listen`, so the mode is in force from the first connection on.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    // SAFETY: plain system call on our own descriptor.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn address_of(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    // SAFETY: sockaddr_un is plain data for which all zeros is a valid value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let text = format!("socket path is longer than {} bytes or contains NUL", address.sun_path.len() - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    for (place, byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = *byte as libc::c_char;
    }
    Ok((address, std::mem::size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

fn new_socket() -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the result is checked before use.
    let raw = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
    check(raw)?;
    // SAFETY: `raw` is a descriptor that was just made and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: `socket` is open; the flag is a plain number.
    check(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(socket)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Writes without raising SIGPIPE, independent of the standard library: the host program may keep the signal's
/// default action.
///
/// # Errors
/// That of the operating system; `BrokenPipe` when the peer has gone.
pub fn send(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    #[cfg(target_vendor = "apple")]
    let flags = {
        quiet(stream)?;
        0
    };
    #[cfg(not(target_vendor = "apple"))]
    let flags = libc::MSG_NOSIGNAL;
    // SAFETY: the bytes are borrowed for the length of the call.
    let sent = unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Where no flag of the call suppresses the signal, an option of the socket does.
#[cfg(target_vendor = "apple")]
fn quiet(stream: &UnixStream) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
    let value = std::ptr::from_ref(&on).cast();
    // SAFETY: `value` points to a number of `length` bytes.
    check(unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NOSIGPIPE, value, length)
    })
}

/// Whether a connection comes from this process's user, or from root, which can act as any user. `false` when the
/// system does not report the user.
pub fn is_same_user(stream: &UnixStream) -> bool {
    // SAFETY: a plain system call that cannot fail.
    let own = unsafe { libc::geteuid() };
    user_of(stream).is_ok_and(|user| user == own || user == 0)
}

/// The user that connected, as the system knows it.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn user_of(stream: &UnixStream) -> io::Result<libc::uid_t> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = std::mem::size_of::<libc::ucred>() as libc::socklen_t;
    let place = std::ptr::from_mut(&mut peer).cast();
    // SAFETY: `place` is a structure of `length` bytes.
    check(unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, place, &mut length)
    })?;
    Ok(peer.uid)
}

/// The user that connected, as the system knows it.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn user_of(stream: &UnixStream) -> io::Result<libc::uid_t> {
    let (mut user, mut group) = (0, 0);
    // SAFETY: both numbers are written to local variables.
    check(unsafe { libc::getpeereid(stream.as_raw_fd(), &mut user, &mut group) })?;
    Ok(user)
}

/// Processor time that this thread has used; zero where the system does not report it.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a local structure of the right type.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if got == 0 {
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    } else {
        Duration::ZERO
    }
}

/// Whether the peer closed and nothing is left to read. Takes nothing from the stream.
pub fn at_end(stream: &UnixStream) -> bool {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: one byte is written to a local variable of one byte.
    let got = unsafe { libc::recv(stream.as_raw_fd(), std::ptr::from_mut(&mut byte).cast(), 1, flags) };
    got == 0 || (got < 0 && io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock)
}

/// Adds a socket to the poller, level-triggered.
///
/// # Errors
/// That of the operating system.
pub fn watch(poller: &Poller, socket: &(impl AsRawFd + AsFd), interest: Event) -> io::Result<()> {
    // SAFETY: every handler takes its socket out with `Reactor::forget` before closing it.
    unsafe { poller.add_with_mode(socket.as_fd().as_raw_fd(), interest, PollMode::Level) }
}
