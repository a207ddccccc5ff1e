//! The thread that computes bcrypt.
//!
//! There is at most one, and it starts with the first password. Its queue is bounded, and takes from each client address in
//! turn. If the queue is full, the address with the most questions loses its last question to an address with fewer. So a
//! storm from one address delays the question of another by one hash, not by a queue. Equal questions share an answer.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::oneshot;

use super::Refusal;
use crate::background::Background;
use crate::lock::lock;

/// Maximum number of questions that wait. A fleet of machines behind one address may ask them all at its first requests.
pub(super) const MAX_WAITING: usize = 256;

/// The identity of a question: the keyed hash of a user and a password.
pub(super) type Tag = [u8; 32];

/// Checks passwords, one after the other.
#[derive(Debug)]
pub(super) struct Hashing {
    shared: Arc<Shared>,
    thread: OnceLock<Background>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    hashes: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    /// The questions of each address. The first address is the next, and goes to the end then.
    lines: VecDeque<(Option<IpAddr>, VecDeque<Question>)>,
    count: usize,
    running: Option<(Tag, Vec<oneshot::Sender<bool>>)>,
    is_closed: bool,
}

#[derive(Debug)]
struct Question {
    tag: Tag,
    hash: Arc<str>,
    password: String,
    waiting: Vec<oneshot::Sender<bool>>,
}

impl Hashing {
    pub(super) fn new() -> Self {
        Self { shared: Arc::default(), thread: OnceLock::new() }
    }

    /// Returns whether a password has a hash.
    pub(super) async fn verify(
        &self,
        tag: Tag,
        address: Option<IpAddr>,
        hash: Arc<str>,
        password: &str,
    ) -> Result<bool, Refusal> {
        let thread = self.thread.get_or_init(|| {
            let shared = Arc::clone(&self.shared);
            Background::start("passwords", Some(move || work(&shared)))
        });
        if !thread.is_running() {
            return Err(Refusal::Busy);
        }
        let answer = lock(&self.shared.queue).ask(tag, network(address), hash, password)?;
        self.shared.changed.notify_one();
        // The question is dropped if another address takes its place.
        answer.await.map_err(|_| Refusal::Busy)
    }

    /// Returns the number of hashes so far.
    #[cfg(test)]
    pub(super) fn hashes(&self) -> u64 {
        self.shared.hashes.load(Ordering::Relaxed)
    }

    /// Returns the number of questions that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        lock(&self.shared.queue).count
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        lock(&self.shared.queue).is_closed = true;
        self.shared.changed.notify_one();
    }
}

impl Queue {
    fn ask(
        &mut self,
        tag: Tag,
        network: Option<IpAddr>,
        hash: Arc<str>,
        password: &str,
    ) -> Result<oneshot::Receiver<bool>, Refusal> {
        let (sender, receiver) = oneshot::channel();
        if let Some((_, waiting)) = self.running.as_mut().filter(|(running, _)| *running == tag) {
            waiting.push(sender);
            return Ok(receiver);
        }
        let mut all = self.lines.iter_mut().flat_map(|(_, line)| line.iter_mut());
        if let Some(equal) = all.find(|question| question.tag == tag) {
            equal.waiting.push(sender);
            return Ok(receiver);
        }
        if self.count >= MAX_WAITING {
            self.make_room_for(network)?;
        }
        let question = Question { tag, hash, password: password.to_owned(), waiting: vec![sender] };
        match self.lines.iter_mut().find(|(of, _)| *of == network) {
            Some((_, line)) => line.push_back(question),
            None => self.lines.push_back((network, VecDeque::from([question]))),
        }
        self.count += 1;
        Ok(receiver)
    }

    /// Drops the last question of the address with the most, if that has more than one more than this address.
    fn make_room_for(&mut self, network: Option<IpAddr>) -> Result<(), Refusal> {
        let own = self.lines.iter().find(|(of, _)| *of == network).map_or(0, |(_, line)| line.len());
        let most = self.lines.iter_mut().max_by_key(|(_, line)| line.len());
        let (_, line) = most.filter(|(_, line)| line.len() > own + 1).ok_or(Refusal::Busy)?;
        line.pop_back();
        self.count -= 1;
        Ok(())
    }

    /// Takes the next question for which somebody waits.
    fn take(&mut self) -> Option<(Arc<str>, String)> {
        while let Some((network, mut line)) = self.lines.pop_front() {
            let Some(mut question) = line.pop_front() else { continue };
            self.count -= 1;
            if !line.is_empty() {
                self.lines.push_back((network, line));
            }
            question.waiting.retain(|sender| !sender.is_closed());
            if !question.waiting.is_empty() {
                self.running = Some((question.tag, question.waiting));
                return Some((question.hash, question.password));
            }
        }
        None
    }
}

/// Answers questions until the queue is closed.
fn work(shared: &Shared) {
    let mut queue = lock(&shared.queue);
    loop {
        if queue.is_closed {
            return;
        }
        let Some((hash, password)) = queue.take() else {
            queue = wait(&shared.changed, queue);
            continue;
        };
        drop(queue);
        // The hash was parsed when the file was read, so an error cannot be.
        let is_right = bcrypt::verify(password, &hash).unwrap_or(false);
        shared.hashes.fetch_add(1, Ordering::Relaxed);
        queue = lock(&shared.queue);
        for sender in queue.running.take().into_iter().flat_map(|(_, waiting)| waiting) {
            // A client that has gone away needs no answer.
            let _ = sender.send(is_right);
        }
    }
}

fn wait<'q>(changed: &Condvar, queue: MutexGuard<'q, Queue>) -> MutexGuard<'q, Queue> {
    changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
}

/// Returns the address of which a client has only one: a whole IPv4 address, or the first half of an IPv6 address.
fn network(address: Option<IpAddr>) -> Option<IpAddr> {
    Some(match address?.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([127, 0, 0, n]))
    }

    fn tag(n: usize, of: u8) -> Tag {
        let mut tag = [of; 32];
        tag[..8].copy_from_slice(&n.to_le_bytes());
        tag
    }

    fn ask(queue: &mut Queue, n: usize, of: u8) -> Result<oneshot::Receiver<bool>, Refusal> {
        queue.ask(tag(n, of), address(of), "hash".into(), &format!("{of} {n}"))
    }

    #[test]
    fn a_full_queue_has_room_for_another_address() {
        let mut queue = Queue::default();
        let mut storm: Vec<_> = (0..MAX_WAITING).map(|n| ask(&mut queue, n, 1).unwrap()).collect();
        assert_eq!(ask(&mut queue, MAX_WAITING, 1).unwrap_err(), Refusal::Busy);
        let _other = ask(&mut queue, 0, 2).unwrap();
        assert_eq!(queue.count, MAX_WAITING);
        let mut last = storm.pop().unwrap();
        assert!(last.try_recv().is_err(), "the last question of the storm made room");
        // The addresses have turns.
        let order: Vec<_> = (0..3).filter_map(|_| Some(queue.take()?.1)).collect();
        assert_eq!(order, ["1 0", "2 0", "1 1"]);
    }

    #[test]
    fn equal_questions_share_an_answer_and_abandoned_ones_are_skipped() {
        let mut queue = Queue::default();
        let (_one, _two) = (ask(&mut queue, 1, 1).unwrap(), ask(&mut queue, 1, 1).unwrap());
        drop(ask(&mut queue, 2, 1).unwrap());
        let _three = ask(&mut queue, 3, 1).unwrap();
        assert_eq!(queue.count, 3);
        assert_eq!(queue.take().unwrap().1, "1 1");
        assert_eq!(queue.running.as_ref().unwrap().1.len(), 2);
        let _four = ask(&mut queue, 1, 1).unwrap();
        assert_eq!(
            queue.running.as_ref().unwrap().1.len(),
            3,
            "a question that is being answered is shared, too"
        );
        assert_eq!(queue.take().unwrap().1, "1 3");
        assert_eq!((queue.take(), queue.count), (None, 0));
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let of = |text: &str| network(Some(text.parse().unwrap())).unwrap().to_string();
        assert_eq!(of("2001:db8:1:2:3::4"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:2:5::6"), of("2001:db8:1:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
