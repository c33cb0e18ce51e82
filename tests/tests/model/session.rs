//! A session: a host, some hundred packets, a clock that jumps, policies that change. It can be played again, and be
//! made smaller until only what matters is left.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use agent_common::counter::{DeniedCount, DeniedKey, Total};
use datapath_model::decision::Known;
use datapath_model::flows::Timeouts;
use datapath_model::model::{Model, Packet};
use datapath_model::verdict::{Hook, Reason};

use crate::expected::Expected;
use crate::kernel::{Kernel, TIMEOUTS};
use crate::packets::{Given, Traffic};
use crate::random::Random;
use crate::text::yaml;
use crate::world::{changed, known};

/// The agent's own choice.
const ATTEMPT_WINDOW: u64 = 30;
/// The clock moves by a multiple of this, and every limit lies in the middle between two.
pub(crate) const TICK: u64 = 4;
/// What all jumps of a session come to at most: machines have not been up for ever.
pub(crate) const JUMPS: u64 = 100;
/// A session that takes longer would come near a limit.
const TOO_LONG: Duration = Duration::from_millis(1_000);

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Packet(Given),
    Wait(u64),
    Change(Box<Known>),
}

/// What happens, from a fresh start.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) start: Known,
    pub(crate) acts: Vec<Act>,
}

/// What a session came to.
#[derive(Debug)]
pub(crate) enum Played {
    /// Kernel and model agree.
    Agreed(Tally),
    /// They do not, at this act.
    Differs { at: usize, how: String, trace: Vec<String> },
    /// The machine was too slow for its clocks to be compared.
    TooSlow,
}

/// What was seen, to know that the packets mean something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) packets: u64,
    pub(crate) forwarded: u64,
    /// By reason and whether only observed.
    pub(crate) denied: BTreeMap<(Reason, bool), u64>,
    /// What happened to flows.
    pub(crate) met: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.forwarded += other.forwarded;
        for (key, count) in &other.denied {
            *self.denied.entry(*key).or_default() += count;
        }
        for (what, count) in &other.met {
            *self.met.entry(what).or_default() += count;
        }
    }
}

impl Session {
    /// A random one. The kernel is asked for the marks of the ports.
    pub(crate) fn random(kernel: &mut Kernel, random: &mut Random, packets: usize) -> Self {
        let mut now = known(random);
        kernel.apply(&mut now);
        let mut session = Self { start: now.clone(), acts: Vec::new() };
        let mut traffic = Traffic::new(&now, random);
        let mut jumps = 0;
        for _ in 0..packets {
            if random.chance(1, 100) {
                let seconds = TICK * *random.pick(&[1, 1, 1, 1, 2, 2, 3, 4, 6, 8]);
                if jumps + seconds <= JUMPS {
                    jumps += seconds;
                    session.acts.push(Act::Wait(seconds));
                }
            }
            if random.chance(1, 150) {
                // Also back to where it began, which revives what was revoked.
                now = if random.chance(1, 3) { session.start.clone() } else { changed(&now, random) };
                session.acts.push(Act::Change(Box::new(now.clone())));
            }
            session.acts.push(Act::Packet(traffic.next(&now, random)));
        }
        session
    }

    /// Plays it. `careful` compares every counter after every packet instead of at the end.
    pub(crate) fn play(&self, kernel: &mut Kernel, careful: bool) -> Played {
        let began = Instant::now();
        let mut start = self.start.clone();
        kernel.apply(&mut start);
        kernel.forget();
        let mut game = Game {
            before: kernel.totals(),
            model: Model::new(start, kernel.revision(), timeouts(), ATTEMPT_WINDOW),
            denied: BTreeMap::new(),
            tally: Tally::default(),
            told: 0,
            forwarded: [0; 2],
            dropped: [0; 2],
        };
        for (at, act) in self.acts.iter().enumerate() {
            let last = at + 1 == self.acts.len();
            let mut wrong = game.act(kernel, act);
            if wrong.is_none() && (careful || last) {
                wrong = game.counters(kernel);
            }
            if began.elapsed() > TOO_LONG {
                return Played::TooSlow;
            }
            if let Some(how) = wrong {
                return Played::Differs { at, how, trace: game.model.trace };
            }
        }
        game.tally.met = game.model.met;
        Played::Agreed(game.tally)
    }

    /// The smallest session that still differs, as far as leaving out acts goes.
    pub(crate) fn shrink(mut self, kernel: &mut Kernel) -> Self {
        if let Played::Differs { at, .. } = self.play(kernel, true) {
            self.acts.truncate(at + 1);
        }
        let mut size = self.acts.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.acts.len() {
                let mut smaller = self.clone();
                smaller.acts.drain(from..(from + size).min(self.acts.len()));
                match smaller.play(kernel, true) {
                    Played::Differs { at, .. } => {
                        smaller.acts.truncate(at + 1);
                        self = smaller;
                    }
                    _ => from += size,
                }
            }
            size /= 2;
        }
        self
    }

    /// Everything that somebody needs to see what is wrong.
    pub(crate) fn describe(&self, kernel: &mut Kernel) -> String {
        let mut text = describe_known(&self.start);
        for act in &self.acts {
            match act {
                Act::Wait(seconds) => writeln!(text, "{seconds} seconds later").unwrap(),
                Act::Change(known) => {
                    writeln!(text, "changed to\n{}", describe_known(known)).unwrap();
                }
                Act::Packet(given) => writeln!(
                    text,
                    "{:?} of {}, came in by {}, mark {:#x}:\n{}",
                    given.hook,
                    given.at,
                    given.from,
                    given.mark,
                    hexdump(&given.bytes)
                )
                .unwrap(),
            }
        }
        match self.play(kernel, true) {
            Played::Differs { at, how, trace } => {
                writeln!(text, "act {at} differs: {how}\nthe model's reasoning:\n  {}", trace.join("\n  "))
            }
            other => writeln!(text, "played again: {other:?}"),
        }
        .unwrap();
        text
    }
}

/// A session being played.
struct Game {
    model: Model,
    before: [u64; agent_common::counter::TOTALS as usize],
    denied: BTreeMap<DeniedKey, DeniedCount>,
    tally: Tally,
    told: u64,
    forwarded: [u64; 2],
    dropped: [u64; 2],
}

impl Game {
    fn act(&mut self, kernel: &mut Kernel, act: &Act) -> Option<String> {
        match act {
            Act::Wait(seconds) => {
                kernel.age(*seconds);
                self.model.now += seconds;
                None
            }
            Act::Change(known) => {
                let mut known = known.as_ref().clone();
                kernel.apply(&mut known);
                self.model.known = known;
                self.model.revision = kernel.revision();
                None
            }
            Act::Packet(given) => self.packet(kernel, given),
        }
    }

    fn packet(&mut self, kernel: &mut Kernel, given: &Given) -> Option<String> {
        let Given { hook, at, from, mark, ref bytes } = *given;
        let answer = self.model.judge(&Packet { hook, at, from, mark, bytes });
        let ran = kernel.run(given);
        let expected = Expected::new(kernel, given, &answer);
        let hook = usize::from(hook == Hook::FromEndpoint);
        self.tally.packets += 1;
        if answer.forwarded {
            self.forwarded[hook] += 1;
            self.tally.forwarded += 1;
        } else {
            self.dropped[hook] += 1;
        }
        if let Some(denial) = &answer.denial {
            *self.tally.denied.entry((denial.reason, denial.observed)).or_default() += 1;
            self.told += u64::from(denial.told.is_some());
        }
        if let Some(wrong) = expected.differs(kernel, &ran) {
            return Some(wrong);
        }
        let (key, attempt) = expected.counted?;
        let count = self.denied.entry(key).or_default();
        count.packets += 1;
        count.attempts += u64::from(attempt);
        let counted = kernel.denied(&key);
        (counted != *count).then(|| format!("{key:?}: kernel {counted:?}, model {count:?}"))
    }

    /// All counters.
    fn counters(&self, kernel: &Kernel) -> Option<String> {
        let denied = kernel.all_denied();
        if denied != self.denied {
            return Some(format!("labels: kernel {denied:#?}, model {:#?}", self.denied));
        }
        let mut totals = self.before;
        let all: u64 = self.denied.values().map(|count| count.packets).sum();
        for (total, by) in [
            (Total::ForwardedToEndpoint, self.forwarded[0]),
            (Total::ForwardedFromEndpoint, self.forwarded[1]),
            (Total::DroppedToEndpoint, self.dropped[0]),
            (Total::DroppedFromEndpoint, self.dropped[1]),
            (Total::EventsSuppressed, all - self.told),
        ] {
            totals[total as usize] += by;
        }
        let read = kernel.totals();
        (read != totals).then(|| format!("totals: kernel {read:?}, model {totals:?}"))
    }
}

fn timeouts() -> Timeouts {
    Timeouts {
        tcp_opening: TIMEOUTS.tcp_opening.into(),
        tcp_established: TIMEOUTS.tcp_established.into(),
        tcp_closing: TIMEOUTS.tcp_closing.into(),
        udp_opening: TIMEOUTS.udp_opening.into(),
        udp_established: TIMEOUTS.udp_established.into(),
        icmp: TIMEOUTS.icmp.into(),
    }
}

fn describe_known(known: &Known) -> String {
    let mut text = yaml(&known.policies);
    for (ifindex, interface) in &known.host.interfaces {
        let mark = known.host.marks.get(ifindex).copied().unwrap_or(0);
        writeln!(text, "{ifindex}: mark {mark:#x}, {interface:?}").unwrap();
    }
    writeln!(text, "host: {:?}", known.host.addresses).unwrap();
    text
}

fn hexdump(bytes: &[u8]) -> String {
    let line = |(index, chunk): (usize, &[u8])| {
        let bytes: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("  {:04x}  {}", index * 16, bytes.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect::<Vec<_>>().join("\n")
}
