//! Bounds per address: how often one may post, and how many connections it may hold. Memory is bounded however many addresses come.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Addresses remembered at once.
const ADDRESSES_MAX: usize = 4096;

/// Token buckets by address. An IPv6 host counts as its /64.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<IpAddr, (f64, Instant)>>);

impl Rates {
    /// Takes one from the bucket of `ip`; `Err` says after how many seconds there is one again. A bucket holds a minute's worth.
    pub fn take(&self, ip: IpAddr, per_minute: u32, now: Instant) -> Result<(), u32> {
        if per_minute == 0 {
            return Ok(());
        }
        let full = f64::from(per_minute);
        let mut buckets = guard(&self.0);
        if buckets.len() >= ADDRESSES_MAX {
            buckets.retain(|_, (_, at)| now.duration_since(*at) < Duration::from_secs(60));
            if buckets.len() >= ADDRESSES_MAX {
                buckets.clear();
            }
        }
        let (level, at) = buckets.entry(group(ip)).or_insert((full, now));
        *level = (*level + now.duration_since(*at).as_secs_f64() * full / 60.0).min(full);
        *at = now;
        if *level >= 1.0 {
            *level -= 1.0;
            return Ok(());
        }
        let wait = ((1.0 - *level) * 60.0 / full).ceil();
        // At most 60, by the line above.
        Err((1_u32..=60).find(|s| f64::from(*s) >= wait).unwrap_or(60))
    }
}

/// Counts connections, in all and by address.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<(usize, HashMap<IpAddr, usize>)>>);

/// A counted connection; dropping it counts it off.
#[derive(Debug)]
pub struct Counted {
    of: Connections,
    ip: IpAddr,
}

impl Connections {
    /// Counts one in, unless a bound is reached.
    pub fn enter(&self, ip: IpAddr, max: usize, per_address_max: usize) -> Option<Counted> {
        let ip = group(ip);
        let mut counts = guard(&self.0);
        let here = counts.1.get(&ip).copied().unwrap_or(0);
        if counts.0 >= max || here >= per_address_max {
            return None;
        }
        counts.0 += 1;
        counts.1.insert(ip, here + 1);
        Some(Counted { of: self.clone(), ip })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = guard(&self.of.0);
        counts.0 = counts.0.saturating_sub(1);
        let left = counts.1.get(&self.ip).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            counts.1.remove(&self.ip);
        } else {
            counts.1.insert(self.ip, left);
        }
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn group(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => {
                let [a, b, c, d, ..] = v6.segments();
                std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        },
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_slowed_and_another_is_not() {
        let (rates, now) = (Rates::default(), Instant::now());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..60 {
            assert_eq!(rates.take(a, 60, now), Ok(()));
        }
        assert_eq!(rates.take(a, 60, now), Err(1));
        assert_eq!(rates.take(b, 60, now), Ok(()));
        assert_eq!(rates.take(a, 60, now + Duration::from_secs(1)), Ok(()));
        assert_eq!(rates.take(a, 0, now), Ok(()));
    }

    #[test]
    fn memory_is_bounded_however_many_addresses_come() {
        let (rates, now) = (Rates::default(), Instant::now());
        for n in 0..20_000_u32 {
            let _ = rates.take(IpAddr::from(n.to_be_bytes()), 60, now);
        }
        assert!(guard(&rates.0).len() <= ADDRESSES_MAX);
    }

    #[test]
    fn connections_are_counted_off_again() {
        let connections = Connections::default();
        let ip = IpAddr::from([10, 0, 0, 1]);
        let held: Vec<_> = (0..3).map(|_| connections.enter(ip, 10, 3).unwrap()).collect();
        assert!(connections.enter(ip, 10, 3).is_none());
        assert!(connections.enter(IpAddr::from([10, 0, 0, 2]), 3, 3).is_none());
        drop(held);
        assert!(connections.enter(ip, 10, 3).is_some());
        assert!(guard(&connections.0).1.is_empty());
    }
}
