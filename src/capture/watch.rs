//! Looks after the destinations: alarms for those that ask for them, and the device's sign of life. Never told through the one that is in trouble.

use super::Edge;
use crate::alarm::{Alarm, Lookout, Options, Seen};
use crate::destination::Class;
use crate::event;
use crate::intake::Vitals;
use crate::store::Error;

impl Edge {
    /// A lookout that knows what earlier runs have told.
    pub fn lookout(&self) -> Lookout {
        let known = self.store.read(|view| view.failing()).unwrap_or_else(|e| {
            log::warn!("it cannot be read which destinations were failing at the last stop: {e}");
            Vec::new()
        });
        Lookout::new(known)
    }

    /// Looks at every destination once. Blocks for a few short reads.
    pub fn look_after(&self, lookout: &mut Lookout) {
        let options = self.live().alarms.clone();
        match self.seen() {
            Ok(all) => self.tell(lookout, &all, &options),
            Err(e) => log::debug!("the destinations cannot be looked after: {e}"),
        }
    }

    fn seen(&self) -> Result<Vec<Seen>, Error> {
        let see = |lane: crate::delivery::Status| {
            let (counts, oldest) = (self.store.counts(lane.dest)?, self.store.read(|view| view.oldest(lane.dest))?);
            let waiting = u64::try_from(counts.waiting()).unwrap_or(0);
            let proven = lane.attempts.get(&Class::Delivered).is_some_and(|n| *n > 0);
            Ok(Seen {
                dest: lane.dest,
                name: lane.name,
                state: lane.state,
                reason: lane.reason,
                since: lane.since,
                waiting,
                oldest,
                proven,
            })
        };
        self.lanes.status().into_iter().map(see).collect()
    }

    fn tell(&self, lookout: &mut Lookout, all: &[Seen], options: &Options) {
        let line = self.store.timeline();
        let (now, wall) = (line.now(), line.wall());
        let clock = if line.trusted() { event::TRUSTED } else { event::UNTRUSTED };
        for seen in all {
            let Some(alarm) = lookout.look(seen, now, line.trusted().then_some(wall), options) else { continue };
            match alarm {
                Alarm::Failing if lookout.is_unheard(seen.dest) => {}
                Alarm::Failing => {
                    log::warn!("destination {}: failing, {} waiting, {}: {}", seen.name, seen.waiting, seen.state, seen.reason)
                }
                Alarm::Recovered => log::info!("destination {}: recovered", seen.name),
            }
            let told = match self.router().destination_alarm(self.store.ids(), alarm, seen, clock, wall) {
                Ok(event) => !event.targets.is_empty() && self.store.announce_alarm(event, lookout.failing().collect()),
                Err(e) => {
                    log::error!("an event about the device could not be made: {e}");
                    false
                }
            };
            if alarm == Alarm::Failing && !told {
                // Who asks for it later, or when there is room again, hears of it then.
                lookout.unheard(seen.dest);
            }
        }
        if lookout.beats(now, options) {
            let vitals = Vitals { uptime_ms: line.uptime_ms(), destinations: all };
            self.announce(|router, ids, clock, now| router.heartbeat(ids, &vitals, clock, now));
        }
    }
}
