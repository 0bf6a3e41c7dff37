//! Storey 3: the side of a session or a host that hands its events to the program.

use std::os::fd::RawFd;
use std::time::Duration;

use super::queue::{Queue, Waited, Wakeup};
use super::DriveError;
use crate::connection::Event;

/// A session or a host. Any thread may call these functions; one thread at a time takes events.
///
/// All but the descriptor return `State` in a forked child, where the queue is the parent's.
pub trait EventSource: Send + Sync {
    /// The queue of its events.
    fn queue(&self) -> &Queue;

    /// # Errors
    /// `State` in a forked child.
    fn check_process(&self) -> Result<(), DriveError>;

    /// Completes an event on the thread that takes it.
    fn complete(&self, event: Event) -> Event {
        event
    }

    /// A descriptor that is readable exactly while an event or the end waits.
    fn fd(&self) -> RawFd {
        self.queue().fd()
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// `Closed` after the last one.
    fn next_event(&self) -> Result<Option<Event>, DriveError> {
        self.check_process()?;
        let event = self.queue().pop().map_err(|()| DriveError::Closed("Channel closed".into()))?;
        Ok(event.map(|event| self.complete(event)))
    }

    /// Waits for an event, a wake, or the time limit.
    ///
    /// # Errors
    /// `State` in a forked child.
    fn wait(&self, timeout: Option<Duration>) -> Result<Waited, DriveError> {
        self.check_process()?;
        Ok(self.queue().wait(timeout))
    }

    /// Ends the current or the next wait.
    ///
    /// # Errors
    /// `State` in a forked child.
    fn wake(&self) -> Result<(), DriveError> {
        self.check_process()?;
        self.queue().wake();
        Ok(())
    }

    /// Sets or clears the wakeup callback; calls it at once when events wait.
    ///
    /// # Errors
    /// `State` in a forked child.
    fn set_wakeup(&self, wakeup: Option<Wakeup>) -> Result<(), DriveError> {
        self.check_process()?;
        self.queue().set_wakeup(wakeup);
        Ok(())
    }
}
