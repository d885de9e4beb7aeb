//! What a user sees at the directory, as a whole.

use std::time::Duration;

use super::overlay::Overlay;
use crate::lazy::fuse::{Mounted, UnmountError};

/// How often it is looked whether a writable layer was unmounted by others.
const LOOK: Duration = Duration::from_millis(500);

/// An image's mount, and a writable layer over it, which is dropped first.
pub struct Place {
    overlay: Option<Overlay>,
    mounted: Mounted,
}

impl Place {
    pub fn new(mounted: Mounted, overlay: Option<Overlay>) -> Self {
        Self { overlay, mounted }
    }

    /// Takes it away, unless something uses it.
    ///
    /// # Errors
    /// When something does, or the system refuses.
    pub fn unmount(&mut self) -> Result<(), UnmountError> {
        if let Some(overlay) = &mut self.overlay {
            overlay.unmount(false)?;
        }
        self.mounted.unmount()
    }

    /// Whether nobody answers at the image's mount, which is still there.
    pub fn is_dead(&self) -> bool {
        self.mounted.is_dead()
    }

    /// Takes it out of sight.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn detach(&mut self) -> Result<(), UnmountError> {
        if let Some(overlay) = &mut self.overlay {
            overlay.unmount(true)?;
        }
        self.mounted.detach()
    }

    /// Waits until it is gone, or until others took the writable layer away.
    pub async fn ended(&mut self) {
        let overlay = &self.overlay;
        let taken = async {
            match overlay {
                Some(overlay) => {
                    while overlay.is_there() {
                        tokio::time::sleep(LOOK).await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.mounted.ended() => {}
            () = taken => {}
        }
    }

    /// Waits until nothing uses the image any more, after [`detach`](Self::detach).
    pub async fn left(&mut self) {
        self.mounted.ended().await;
    }
}
