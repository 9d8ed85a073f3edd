//! What Redis writes, with anything changed in it: read or refused, never more; and a damaged file is never taken
//! for more than stands in it.

use proptest::prelude::*;

use super::{aof, install, mirror, ttl};

const AOF: &[u8] = b"#TS:1795235836\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n\
*1\r\n$5\r\nMULTI\r\n*3\r\n$9\r\nPEXPIREAT\r\n$1\r\na\r\n$13\r\n1795235836000\r\n*1\r\n$4\r\nEXEC\r\n\
#TS:1795235837\r\n*5\r\n$3\r\nSET\r\n$1\r\nb\r\n$2\r\n\r\n\r\n$4\r\nPXAT\r\n$13\r\n1795235837000\r\n";

const TEXTS: [&str; 4] = [
    "file appendonly.aof.2.base.rdb seq 2 type b\nfile appendonly.aof.1.incr.aof seq 1 type h\nfile appendonly.aof.2.incr.aof seq 2 type i\n",
    "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=aa09c1ac2ab7d71a\n",
    "1:S 21 Nov 2026 10:00:00.000 # MASTER aborted replication with an error: NOAUTH Authentication required.\n",
    "Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1\n",
];

fn changed<T: Clone + std::fmt::Debug + 'static>(
    known: &'static [T],
    fresh: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Vec<T>> {
    let change = (any::<usize>(), 0_usize..12, proptest::collection::vec(fresh, 0..6));
    proptest::collection::vec(change, 0..4).prop_map(move |changes| {
        let mut all = known.to_vec();
        for (at, less, more) in changes {
            let at = at % (all.len() + 1);
            let end = (at + less).min(all.len());
            all.splice(at..end, more);
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_commands_or_refused(
        bytes in changed(AOF, prop_oneof![any::<u8>(), Just(b'*'), Just(b'$'), Just(b'9'), Just(b'\r'), Just(b'\n')]),
    ) {
        let mut last = 0;
        let found = aof::scan(&bytes, |_, at| {
            assert!(at >= last && at < bytes.len());
            last = at;
        });
        prop_assert!(found.whole <= bytes.len());
        // What is whole stays whole, whatever comes behind it.
        let again = aof::scan(&bytes[..found.whole], |_, _| {});
        prop_assert_eq!((again.whole, again.broken), (found.whole, false));
        for (place, fresh) in ttl::increment(&bytes, 60_000) {
            prop_assert!(usize::try_from(place).unwrap() + fresh.len() <= bytes.len());
        }
    }

    #[test]
    fn what_servers_print_is_read_or_refused(which in 0..TEXTS.len(), changes in changed(&[], any::<char>()), at in any::<usize>()) {
        let mut chars: Vec<char> = TEXTS[which].chars().collect();
        let at = at % (chars.len() + 1);
        chars.splice(at..(at + changes.len()).min(chars.len()), changes);
        let text: String = chars.into_iter().collect();
        if let Ok(manifest) = aof::Manifest::parse(&text) {
            prop_assert!(manifest.0.iter().all(|part| !part.name.contains('/')));
            prop_assert_eq!(aof::Manifest::parse(&manifest.text()).unwrap(), manifest);
        }
        for family in [install::Family::Redis, install::Family::Valkey] {
            let _ = install::Version::parse(family, &text);
        }
        let _ = mirror::diagnose(&text);
    }
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(2_000, |text| text.parse().unwrap_or(2_000))
}
