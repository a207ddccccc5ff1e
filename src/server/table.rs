//! The connections of a listener's clients: who gets a place, and who loses one.
//!
//! A place is never taken from a client that makes use of it. If the table is nearly full, idle connections end, first those of the
//! client with the most connections. If it is full, the slowest reader below a minimum rate ends. Otherwise a new client waits in
//! the kernel's queue.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::limits::{ClientKey, Limits};
use super::refusal::Refusal;
use super::seat::{Client, Closing, Seat, semaphore};
use crate::lock::lock;

/// The table of the connections.
#[derive(Debug)]
pub(super) struct Table {
    limits: Limits,
    state: Mutex<State>,
    freed: Notify,
    zips: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    seats: HashMap<u64, Arc<Seat>>,
    /// The seats that are not being closed.
    open: usize,
    clients: HashMap<ClientKey, Weak<Client>>,
    next: u64,
}

/// Maximum number of connections that are being closed while their places are given away already.
const CLOSING: usize = 256;

/// Maximum time for a request to wait for its place.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection's hold of its place. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Seated {
    pub(super) seat: Arc<Seat>,
    table: Arc<Table>,
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.table.free(&self.seat);
    }
}

/// The outcome of a try to get a place.
enum Try {
    Seated(Seated),
    AtLimit,
    Full,
}

impl Table {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let zips = semaphore(limits.open_zips);
        Arc::new(Self { limits, state: Mutex::default(), freed: Notify::new(), zips })
    }

    /// Returns a place for a connection, after a wait if the table is full. Returns `None` if the client has as many as it may have.
    /// A trusted client has no limit of its own.
    pub(super) async fn seat(self: &Arc<Self>, address: Option<IpAddr>, is_trusted: bool) -> Option<Seated> {
        loop {
            let freed = self.freed.notified();
            match self.try_seat(address, is_trusted) {
                Try::Seated(seat) => return Some(seat),
                Try::AtLimit => return None,
                // A slow reader is known as such only after a while.
                Try::Full => drop(tokio::time::timeout(Duration::from_secs(1), freed).await),
            }
        }
    }

    fn try_seat(self: &Arc<Self>, address: Option<IpAddr>, is_trusted: bool) -> Try {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let client = address.map(|address| self.client_in(&mut state, address));
        if state.seats.len() >= self.limits.connections + CLOSING {
            return Try::Full;
        }
        if let Some(client) = client.as_ref().filter(|_| !is_trusted)
            && client.connections.load(Ordering::Relaxed) >= self.limits.connections_per_address
        {
            let of_client =
                |seat: &Seat| seat.client.as_ref().is_some_and(|other| Arc::ptr_eq(other, client));
            if state.close_idle(now, 1, of_client) == 0 {
                return Try::AtLimit;
            }
        }
        let nearly = self.limits.connections - self.limits.connections / 10;
        if state.open >= nearly {
            // Several at once, so that not every new client looks at the whole table.
            state.close_idle(now, 1 + self.limits.connections / 64, |_| true);
        }
        if state.open >= self.limits.connections && !self.end_slowest(&mut state, now) {
            return Try::Full;
        }
        if let Some(client) = &client {
            client.connections.fetch_add(1, Ordering::Relaxed);
        }
        (state.next, state.open) = (state.next + 1, state.open + 1);
        let seat = Arc::new(Seat::new(state.next, client, &self.limits));
        state.seats.insert(seat.number, Arc::clone(&seat));
        Try::Seated(Seated { seat, table: Arc::clone(self) })
    }

    /// Frees the place of a connection that has ended.
    fn free(&self, seat: &Seat) {
        let mut state = lock(&self.state);
        state.seats.remove(&seat.number);
        if *seat.closing.borrow() == Closing::No {
            state.left(seat);
        }
        drop(state);
        self.freed.notify_one();
    }

    /// Ends the slowest of the readers that are too slow, of the client with the most connections. Returns whether there was one.
    fn end_slowest(&self, state: &mut State, now: Instant) -> bool {
        let slow = state.open().filter_map(|seat| {
            let rate = seat.rate(now).filter(|rate| *rate < self.limits.min_send_rate)?;
            Some(((Reverse(seat.of_client()), rate), seat))
        });
        let slowest = slow.min_by_key(|(order, _)| *order).map(|(_, seat)| seat);
        slowest.is_some_and(|seat| state.close(&seat, Closing::Now))
    }

    /// Returns the clients that share limits with an address.
    pub(super) fn client(&self, address: IpAddr) -> Arc<Client> {
        self.client_in(&mut lock(&self.state), address)
    }

    fn client_in(&self, state: &mut State, address: IpAddr) -> Arc<Client> {
        let key = ClientKey::of(address);
        if let Some(client) = state.clients.get(&key).and_then(Weak::upgrade) {
            return client;
        }
        if state.clients.len() >= 2 * self.limits.connections + 1024 {
            state.clients.retain(|_, client| client.strong_count() > 0);
        }
        let client = Arc::new(Client::new(&self.limits));
        state.clients.insert(key, Arc::downgrade(&client));
        client
    }

    /// Returns a place for a zip that is to be sent: one of the connection, one of the client and one of all.
    pub(super) async fn zip(
        &self,
        seat: &Seat,
        client: Option<&Arc<Client>>,
    ) -> Result<[Option<OwnedSemaphorePermit>; 3], Refusal> {
        let places = [Some(&seat.zips), client.map(|client| &client.zips), Some(&self.zips)];
        let wait = async {
            let mut permits = [None, None, None];
            for (place, permit) in places.into_iter().zip(&mut permits) {
                let Some(place) = place else { continue };
                *permit = Arc::clone(place).try_acquire_owned().ok();
                if permit.is_none() {
                    self.end_slowest(&mut lock(&self.state), Instant::now());
                    // The semaphores are never closed.
                    *permit = Arc::clone(place).acquire_owned().await.ok();
                }
            }
            permits
        };
        tokio::time::timeout(PATIENCE, wait).await.map_err(|_| Refusal::TooManyZips)
    }

    /// Ends connections whose clients take nothing, and measures the others. Never ends.
    pub(super) async fn watch(self: Arc<Self>, stall_timeout: Duration) {
        let mut interval = tokio::time::interval(Duration::from_secs(10));
        loop {
            interval.tick().await;
            let now = Instant::now();
            let mut state = lock(&self.state);
            let stalled: Vec<_> = state.open().filter(|seat| seat.tick(now, stall_timeout)).collect();
            for seat in stalled {
                state.close(&seat, Closing::Now);
            }
        }
    }
}

/// Waits for a place for a request of a client.
pub(super) async fn place(client: Option<&Arc<Client>>) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
    let Some(client) = client else { return Ok(None) };
    if let Ok(permit) = Arc::clone(&client.requests).try_acquire_owned() {
        return Ok(Some(permit));
    }
    let permit = tokio::time::timeout(PATIENCE, Arc::clone(&client.requests).acquire_owned()).await;
    permit.map(Result::ok).map_err(|_| Refusal::TooMany)
}

impl State {
    /// Returns the seats that are not being closed.
    fn open(&self) -> impl Iterator<Item = Arc<Seat>> + '_ {
        let seats = self.seats.values().map(Arc::clone);
        seats.filter(|seat| *seat.closing.borrow() == Closing::No)
    }

    /// Closes up to `count` connections, those that are idle for longest. Returns their number.
    fn close_idle(&mut self, now: Instant, count: usize, matches: impl Fn(&Seat) -> bool) -> usize {
        let idle = self.open().filter(|seat| matches(seat));
        let idle = idle.filter_map(|seat| Some(((Reverse(seat.of_client()), seat.idle_since(now)?), seat)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_by_key(|(order, _)| *order);
        idle.iter().take(count).filter(|(_, seat)| self.close(seat, Closing::Idle)).count()
    }

    /// Closes a connection. Its place is free from now on. Returns whether it was open.
    fn close(&mut self, seat: &Seat, how: Closing) -> bool {
        let was_open = *seat.closing.borrow() == Closing::No;
        if was_open {
            seat.closing.send_replace(how);
            self.left(seat);
        }
        was_open
    }

    fn left(&mut self, seat: &Seat) {
        self.open -= 1;
        if let Some(client) = &seat.client {
            client.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(connections: usize, per_address: usize) -> Arc<Table> {
        let limits = Limits { connections_per_address: per_address, open_zips: 4, ..Limits::of(connections) };
        Table::new(limits)
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn seated(found: Try) -> Option<Seated> {
        match found {
            Try::Seated(seat) => Some(seat),
            Try::AtLimit | Try::Full => None,
        }
    }

    fn closing(seated: &Seated) -> Closing {
        *seated.seat.closing.borrow()
    }

    #[test]
    fn one_address_leaves_places() {
        let table = table(10, 3);
        let mine: Vec<_> = (0..4).map(|_| seated(table.try_seat(address("192.0.2.1"), false))).collect();
        assert_eq!(mine.iter().flatten().count(), 3);
        assert!(matches!(table.try_seat(address("192.0.2.1"), false), Try::AtLimit));
        assert!(seated(table.try_seat(address("192.0.2.1"), true)).is_some());
        assert!(seated(table.try_seat(address("192.0.2.2"), false)).is_some());
        assert!(seated(table.try_seat(None, true)).is_some());
        drop(mine);
        assert!(seated(table.try_seat(address("192.0.2.1"), false)).is_some());
        assert_eq!(lock(&table.state).seats.len(), 0);
    }

    #[test]
    fn a_full_table_waits_for_the_end_of_a_connection() {
        let table = table(2, 2);
        let seats: Vec<_> =
            (0..2).filter_map(|_| seated(table.try_seat(address("192.0.2.1"), false))).collect();
        assert!(matches!(table.try_seat(address("192.0.2.2"), false), Try::Full));
        let _request = seats[1].seat.begin();
        // Later, the one without a request is idle.
        let later = Instant::now() + Duration::from_secs(6);
        assert_eq!(lock(&table.state).close_idle(later, 5, |_| true), 1);
        assert_eq!((closing(&seats[0]), closing(&seats[1])), (Closing::Idle, Closing::No));
        assert!(seated(table.try_seat(address("192.0.2.2"), false)).is_some());
    }

    #[test]
    fn the_slowest_reader_gives_its_place_when_it_is_needed() {
        let table = table(3, 3);
        let seats: Vec<_> =
            (0..3).filter_map(|_| seated(table.try_seat(address("192.0.2.1"), false))).collect();
        let mut requests: Vec<_> = seats.iter().map(|seated| seated.seat.begin()).collect();
        requests.iter_mut().for_each(|request| request.set_inside(false));
        let later = Instant::now() + Duration::from_secs(40);
        // 20 KiB/s, 2 KiB/s and 1 KiB/s.
        for (seated, rate) in seats.iter().zip([20, 2, 1]) {
            seated.seat.wrote(rate * 1024 * 40);
        }
        let mut state = lock(&table.state);
        assert!(table.end_slowest(&mut state, later));
        assert_eq!(closing(&seats[2]), Closing::Now);
        assert!(table.end_slowest(&mut state, later));
        assert_eq!(closing(&seats[1]), Closing::Now);
        assert!(!table.end_slowest(&mut state, later));
        assert_eq!(closing(&seats[0]), Closing::No);
    }

    #[test]
    fn zips_are_bounded_for_each_address() {
        let table = table(10, 10);
        let seat = |text| seated(table.try_seat(address(text), false)).unwrap();
        let (mine, other) = (seat("192.0.2.1"), seat("192.0.2.2"));
        let zip = |seated: &Seated| {
            let places = table.zip(&seated.seat, seated.seat.client.as_ref());
            let waker = std::task::Waker::noop();
            let mut places = Box::pin(places);
            match places.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
                std::task::Poll::Ready(found) => found.ok(),
                std::task::Poll::Pending => None,
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let mut held: Vec<_> = (0..3).map(|_| zip(&mine).unwrap()).collect();
        assert!(zip(&mine).is_none());
        assert!(zip(&other).is_some());
        held.pop();
        assert!(zip(&mine).is_some());
    }
}
