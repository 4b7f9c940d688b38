//! Whether this instance does its work, and if not, why.

use pg::Link;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Everything that must hold for this instance to be ready.
#[derive(Debug)]
pub struct Health {
    links: Vec<watch::Receiver<Link>>,
    draining: AtomicBool,
}

impl Health {
    /// Ready while all of these are up.
    pub fn new(links: Vec<watch::Receiver<Link>>) -> Self {
        Self {
            links,
            draining: AtomicBool::new(false),
        }
    }

    /// Not ready any more: it is shutting down.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Waits until all of it is up, if only for a moment each.
    pub async fn ready(&self) {
        for link in &self.links {
            // An error says that it will never be up: whoever kept it is gone.
            if link
                .clone()
                .wait_for(|link| !matches!(link, Link::Down(_)))
                .await
                .is_err()
            {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Why it is not ready; nothing if it is.
    pub fn reasons(&self) -> Vec<String> {
        let links = self.links.iter().filter_map(|link| match &*link.borrow() {
            Link::Up | Link::Strained(_) => None,
            Link::Down(reason) => Some(reason.clone()),
        });
        let draining = self.is_draining().then(|| "shutting down".to_owned());
        links.chain(draining).collect()
    }

    /// What is wrong although it is ready: more and more clients are not to be sent away for
    /// what no other instance does better.
    pub fn warnings(&self) -> Vec<String> {
        let links = self.links.iter().filter_map(|link| match &*link.borrow() {
            Link::Strained(what) => Some(what.clone()),
            Link::Up | Link::Down(_) => None,
        });
        links.collect()
    }
}
