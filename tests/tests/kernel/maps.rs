//! What maps, counters and clocks do.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use integration_tests::bpf::{self, Instruction};
use integration_tests::prepare;
use rustix::time::{ClockId, clock_gettime};

/// Looks up entry 0 of an array, and ends the program if there is none: the address is in r0.
fn first_entry(array: &OwnedFd) -> Vec<Instruction> {
    vec![
        (bpf::MOVE_NUMBER, 1, 0, 0, 0),
        (bpf::STORE_32, 10, 1, -4, 0),
        (bpf::LOAD_WIDE, 1, 1, 0, array.as_raw_fd()),
        (0, 0, 0, 0, 0),
        (bpf::MOVE, 2, 10, 0, 0),
        (bpf::ADD_NUMBER, 2, 0, 0, -4),
        (bpf::CALL, 0, 0, 0, bpf::LOOK_UP),
        (bpf::SKIP_UNLESS_ZERO, 0, 0, 1, 0),
        (bpf::EXIT, 0, 0, 0, 0),
    ]
}

/// A full table of established flows means `table_full`, never the loss of a flow.
#[test]
fn a_full_hash_refuses_and_keeps_what_it_has() {
    prepare().unwrap();
    let map = bpf::map(bpf::HASH, [4, 8, 64], 0).unwrap();
    for key in 0..64_u32 {
        bpf::update(&map, &key, &u64::from(key), bpf::NOEXIST).unwrap();
    }
    let full = bpf::update(&map, &64_u32, &0_u64, 0).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::E2BIG));
    bpf::update(&map, &5_u32, &500_u64, 0).unwrap();
    let there = bpf::update(&map, &5_u32, &501_u64, bpf::NOEXIST).unwrap_err();
    assert_eq!(there.raw_os_error(), Some(libc::EEXIST), "whoever comes second is told");
    for key in 0..64_u32 {
        let expected = if key == 5 { 500 } else { u64::from(key) };
        assert_eq!(bpf::look_up::<_, u64>(&map, &key).unwrap(), expected);
    }
}

/// A full table of half-open flows takes what is new.
#[test]
fn a_full_lru_hash_takes_what_is_new() {
    prepare().unwrap();
    let map = bpf::map(bpf::LRU_HASH, [4, 8, 1024], 0).unwrap();
    for key in 0..8192_u32 {
        bpf::update(&map, &key, &u64::from(key), 0).unwrap();
        assert_eq!(bpf::look_up::<_, u64>(&map, &key).unwrap(), u64::from(key), "gone at once");
    }
    let kept = (0..8192_u32).filter(|key| bpf::look_up::<_, u64>(&map, key).is_ok()).count();
    assert!((1..=1024).contains(&kept), "{kept} entries");
}

/// Rules of a port beat those of a range, and addresses those of their network.
#[test]
fn the_longest_prefix_decides() {
    prepare().unwrap();
    let map = bpf::map(bpf::LPM_TRIE, [8, 4, 16], bpf::NO_PREALLOC).unwrap();
    let key = |length: u32, address: [u8; 4]| [length, u32::from_ne_bytes(address)];
    for (length, address) in [(0, [0; 4]), (8, [10, 0, 0, 0]), (24, [10, 1, 2, 0])] {
        bpf::update(&map, &key(length, address), &length, 0).unwrap();
    }
    for (address, expected) in [([10, 1, 2, 3], 24), ([10, 1, 3, 3], 8), ([11, 1, 2, 3], 0)] {
        assert_eq!(bpf::look_up::<_, u32>(&map, &key(32, address)).unwrap(), expected);
    }
}

/// Counters are exact whoever counts at the same time.
#[test]
fn an_atomic_addition_loses_nothing() {
    const TIMES: u32 = 20_000;
    prepare().unwrap();
    let array = bpf::map(bpf::ARRAY, [4, 8, 1], 0).unwrap();
    let mut program = first_entry(&array);
    program.extend([
        (bpf::MOVE_NUMBER, 1, 0, 0, 1),
        (bpf::ATOMIC_64, 0, 1, 0, 0),
        (bpf::MOVE_NUMBER, 0, 0, 0, 0),
        (bpf::EXIT, 0, 0, 0, 0),
    ]);
    let program = bpf::classifier(&program).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| bpf::run(&program, TIMES).unwrap());
        }
    });
    assert_eq!(bpf::look_up::<_, u64>(&array, &0_u32).unwrap(), u64::from(4 * TIMES));
}

/// Events that nobody reads are refused, so that they can be counted as lost, and those told before are kept.
#[test]
fn a_full_ring_refuses() {
    prepare().unwrap();
    let ring = bpf::map(bpf::RING, [0, 0, 4096], 0).unwrap();
    let program = bpf::classifier(&[
        (bpf::MOVE_NUMBER, 1, 0, 0, 0),
        (bpf::STORE_64, 10, 1, -8, 0),
        (bpf::LOAD_WIDE, 1, 1, 0, ring.as_raw_fd()),
        (0, 0, 0, 0, 0),
        (bpf::MOVE, 2, 10, 0, 0),
        (bpf::ADD_NUMBER, 2, 0, 0, -8),
        (bpf::MOVE_NUMBER, 3, 0, 0, 8),
        (bpf::MOVE_NUMBER, 4, 0, 0, 0),
        (bpf::CALL, 0, 0, 0, bpf::RING_OUTPUT),
        (bpf::EXIT, 0, 0, 0, 0),
    ])
    .unwrap();
    // Each record has a header of eight bytes.
    let room = 4096 / 16;
    let told = (0..2 * room).take_while(|_| bpf::run(&program, 1).unwrap() == 0).count();
    assert!((room - 1..=room).contains(&told), "{told} records");
    assert_eq!(bpf::run(&program, 1000).unwrap(), -libc::EAGAIN);
}

/// Programs and agent read the same clock.
#[test]
fn the_clock_of_programs_is_the_monotonic_one() {
    prepare().unwrap();
    let array = bpf::map(bpf::ARRAY, [4, 8, 1], 0).unwrap();
    let mut program = first_entry(&array);
    program.extend([
        (bpf::MOVE, 6, 0, 0, 0),
        (bpf::CALL, 0, 0, 0, bpf::TIME),
        (bpf::STORE_64, 6, 0, 0, 0),
        (bpf::MOVE_NUMBER, 0, 0, 0, 0),
        (bpf::EXIT, 0, 0, 0, 0),
    ]);
    let program = bpf::classifier(&program).unwrap();
    let now = || {
        let time = clock_gettime(ClockId::Monotonic);
        u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
    };
    let before = now();
    bpf::run(&program, 1).unwrap();
    let told = bpf::look_up::<_, u64>(&array, &0_u32).unwrap();
    assert!((before..=now()).contains(&told), "{told} is not between {before} and now");
}

/// Packet tables say by which interface a packet came in; where a test run does not take that, they cannot run.
#[test]
fn a_test_run_is_told_of_its_packet_and_by_which_interface_it_came_since_6_1() {
    const MARK: usize = 8;
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    prepare().unwrap();
    let program = bpf::returning(0).unwrap();
    let told = |offset: usize| {
        let mut context = [0_u8; 192];
        context[offset..offset + 4].copy_from_slice(&1_u32.to_ne_bytes());
        bpf::run_told(&program, &context).map_err(|error| error.raw_os_error())
    };
    assert_eq!([told(MARK), told(IFINDEX)], [Ok(()), Ok(())]);
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    // What lies between the two has not been asked.
    if release.starts_with("5.10.") {
        assert_eq!(told(INGRESS_IFINDEX), Err(Some(libc::EINVAL)));
    } else {
        assert_eq!(told(INGRESS_IFINDEX), Ok(()), "{release}");
    }
}
