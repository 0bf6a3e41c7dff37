//! Storey 4, the queue through which a session or a host hands its events to the program.

use std::ffi::c_void;
use std::sync::Arc;

use super::event::{check_event, rtd_event, BorrowedEvent};
use super::guard::{duration, guard, guard_value, handle, out_ptr, Failure};
use super::rtd_result;
use crate::code::rtd_code;
use crate::drive::{DriveError, EventSource, Waited, Wakeup};

/// The events of a session or a host. Borrowed from it: rtd_session_queue() and rtd_host_queue() always return the
/// same one; it is never freed by itself and ends with rtd_session_free() or rtd_host_free(). A call of the queue
/// counts as a call of its session or host. After close it still hands out the events that wait; RTD_EV_CLOSED is
/// the last, and from then on its functions return RTD_E_CLOSED.
pub struct rtd_queue {
    source: Arc<dyn EventSource>,
    event: BorrowedEvent,
}

impl rtd_queue {
    pub(super) fn new(source: Arc<dyn EventSource>) -> Self {
        Self { source, event: BorrowedEvent::default() }
    }
}

/// Called by rtd_queue_dispatch(), on the thread that called it. May call any function of this library except
/// rtd_queue_next() and rtd_queue_dispatch() of the same queue and free of its session or host. Must return
/// normally: no exception, no longjmp.
pub type rtd_event_fn = Option<unsafe extern "C" fn(userdata: *mut c_void, event: *const rtd_event)>;
/// Called from any thread when events wait, perhaps from several at the same time. Must return at once and call no
/// function of this library: it may run in the middle of one. The same holds for a finalizer.
pub type rtd_wakeup_fn = Option<unsafe extern "C" fn(userdata: *mut c_void)>;

/// A descriptor that is readable exactly while an event waits, or after the last one was taken. Poll it; never read
/// or close it. It lives as long as the queue.
///
/// \param queue the queue
/// \return the descriptor; -1 for NULL and in a forked child
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_queue_fd(queue: *const rtd_queue) -> i32 {
    guard_value(-1, || {
        // SAFETY: the caller's promise.
        let source = unsafe { queue.as_ref() }.map(|queue| &queue.source);
        source.filter(|source| source.check_process().is_ok()).map_or(-1, |source| source.fd())
    })
}

/// Takes the next event. Never waits for the other side; for a session, it reads a blob file when an output is stored
/// in one.
///
/// \param queue the queue
/// \param event struct_size set by the caller; receives the event, borrowed until the next rtd_queue_next() or
///   rtd_queue_dispatch() of this queue
/// \return RTD_OK; RTD_E_AGAIN when no event waits; RTD_E_CLOSED after RTD_EV_CLOSED was taken; RTD_E_STATE in a forked
///   child; RTD_E_VERSION; RTD_E_NULL
/// \threads one consumer at a time
#[no_mangle]
pub unsafe extern "C" fn rtd_queue_next(queue: *const rtd_queue, event: *mut rtd_event) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let queue = handle(queue, "queue")?;
            check_event(event)?;
            queue.event.write(queue.source.next_event()?, event)
        }
    })
}

/// Blocks until an event waits. Does not take it.
///
/// \param queue the queue
/// \param timeout_ms milliseconds; negative: no limit
/// \return RTD_OK; RTD_E_TIMEOUT; RTD_E_AGAIN when rtd_queue_wake() ended the wait; RTD_E_CLOSED after RTD_EV_CLOSED was
///   taken; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_queue_wait(queue: *const rtd_queue, timeout_ms: i64) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let queue = unsafe { handle(queue, "queue")? };
        match queue.source.wait(duration(timeout_ms))? {
            Waited::Event => Ok(()),
            Waited::TimedOut => Err(Failure::new(rtd_code::RTD_E_TIMEOUT, "no event came in time")),
            Waited::Woken => Err(Failure::new(rtd_code::RTD_E_AGAIN, "woken")),
            Waited::Closed => Err(Failure::new(rtd_code::RTD_E_CLOSED, "Channel closed")),
        }
    })
}

/// Ends one rtd_queue_wait(), the current or the next one, and is never lost. Adds no event and leaves the descriptor
/// as it is: a program that polls needs another way to wake itself.
///
/// \param queue the queue
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_queue_wake(queue: *const rtd_queue) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| Ok(unsafe { handle(queue, "queue")? }.source.wake()?))
}

/// Passes the events that wait to a function, on the calling thread. Does not wait.
///
/// \param queue the queue
/// \param fn called with `userdata` and the event, which is borrowed until it returns
/// \param userdata passed through
/// \param max the largest number of events to pass
/// \param delivered receives the number of events that were passed, 0 when none waited
/// \return RTD_OK; RTD_E_CLOSED when RTD_EV_CLOSED was taken before; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads one consumer at a time
#[no_mangle]
pub unsafe extern "C" fn rtd_queue_dispatch(
    queue: *const rtd_queue,
    r#fn: rtd_event_fn,
    userdata: *mut c_void,
    max: usize,
    delivered: *mut usize,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (queue, delivered) = unsafe { (handle(queue, "queue")?, out_ptr(delivered, "delivered")?) };
        let call = r#fn.ok_or_else(|| Failure::new(rtd_code::RTD_E_NULL, "fn is NULL"))?;
        let mut count = 0;
        while count < max {
            let event = match queue.source.next_event() {
                Ok(Some(event)) => queue.event.keep(event),
                Ok(None) => break,
                Err(DriveError::Closed(_)) if count > 0 => break,
                Err(error) => return Err(error.into()),
            };
            count += 1;
            // SAFETY: the caller promises that the function may be called with its userdata.
            unsafe { call(userdata, &event) };
        }
        *delivered = count;
        Ok(())
    })
}

/// Sets the function that is called when events wait; NULL clears it. Called at once when events wait already. One
/// call may stand for several events: take events until none waits.
///
/// \param queue the queue
/// \param fn the function, or NULL
/// \param userdata passed through
/// \param finalizer called once with `userdata`, on any thread, after the last call of `fn`: when `fn` is replaced or
///   cleared, or the session or host is freed; may be NULL. Not called when this function fails
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_queue_set_wakeup(
    queue: *const rtd_queue,
    r#fn: rtd_wakeup_fn,
    userdata: *mut c_void,
    finalizer: rtd_wakeup_fn,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let source = unsafe { &handle(queue, "queue")?.source };
        // Before `userdata` is handed over, so that the finalizer does not run on failure.
        source.check_process()?;
        Ok(source.set_wakeup(Userdata::wakeup(r#fn, userdata, finalizer))?)
    })
}

/// What `rtd_queue_set_wakeup` was given; the I/O thread calls it.
struct Userdata {
    call: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
    finalizer: rtd_wakeup_fn,
}

// SAFETY: the contract of set_wakeup says that the function may be called from any thread with this
// pointer, also while another call is under way.
unsafe impl Send for Userdata {}
// SAFETY: the same contract.
unsafe impl Sync for Userdata {}

impl Userdata {
    /// The callback of set_wakeup; NULL clears it, and its finalizer runs at once.
    fn wakeup(call: rtd_wakeup_fn, data: *mut c_void, finalizer: rtd_wakeup_fn) -> Option<Wakeup> {
        let Some(call) = call else {
            if let Some(finalizer) = finalizer {
                // SAFETY: handed over to be called once with `data`.
                unsafe { finalizer(data) };
            }
            return None;
        };
        let userdata = Self { call, data, finalizer };
        Some(Box::new(move || userdata.run()))
    }

    fn run(&self) {
        // SAFETY: see the Send and Sync implementations.
        unsafe { (self.call)(self.data) };
    }
}

impl Drop for Userdata {
    fn drop(&mut self) {
        if let Some(finalizer) = self.finalizer.take() {
            // SAFETY: called once, after the last call of the callback.
            unsafe { finalizer(self.data) };
        }
    }
}
