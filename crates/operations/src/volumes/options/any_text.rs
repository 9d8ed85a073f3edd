//! Whatever a container engine hands on as options: a wish or refused, and a password is shown in neither.

use proptest::prelude::*;

use super::{KNOWN, Wish};

const VALUES: [&str; 8] = ["shop", "shop@-2h", "db", "latest", "durable", "999", "0770", "lsn:0/16B3748"];

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_wish_or_refused(
        typed in proptest::collection::btree_map(
            prop_oneof![8 => proptest::sample::select(&KNOWN).prop_map(|(name, _)| name.to_owned()), 1 => ".{0,6}"],
            prop_oneof![4 => proptest::sample::select(&VALUES).prop_map(str::to_owned), 1 => ".{0,20}"],
            0..5,
        ),
        secret in "[A-Z]{12}",
        told in any::<bool>(),
    ) {
        let mut typed = typed;
        if told {
            typed.insert("password".to_owned(), secret.clone());
        }
        match Wish::read(&typed) {
            Ok(wish) => {
                prop_assert_eq!(wish.password.is_some(), typed.contains_key("password"));
                let kept = format!("{:?}", wish.kept);
                prop_assert!(!kept.contains(&secret), "{}", kept);
                prop_assert!(wish.asked().parse::<pando_model::Moment>().is_ok(), "{}", wish.asked());
            }
            Err(problem) => {
                let said = format!("{problem} {}", problem.hint.clone().unwrap_or_default());
                prop_assert!(!said.contains(&secret), "{}", said);
            }
        }
    }
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(2_000, |text| text.parse().unwrap_or(2_000))
}
