//! Golden vectors (a dependency must not change what two nodes say to each other), round trips, and forgeries.

use proptest::prelude::*;

use super::*;
use std::net::SocketAddr;

fn keys() -> Keys {
    let seals = [SealKey { id: 1, secret: [0x11; 16] }, SealKey { id: 2, secret: [0x22; 16] }];
    Keys::new(*b"golden route key", &seals, 2).unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn sealed(stands_in: SealedIn) -> Sealed {
    let flow = FlowToken::Ends { local: address("203.0.113.10:5060"), remote: address("198.51.100.7:31234") };
    Sealed { stands_in, server: NameHash::of("opensips/lagos-1"), frontend: NameHash::of("sip"), flow, nat: true }
}

fn text_of(sealed: &Sealed, call: u64, keys: &Keys) -> String {
    let mut text = [0; SEALED_LEN_MAX];
    let len = sealed.seal(call, keys, &mut text);
    String::from_utf8(text[..len].to_vec()).unwrap()
}

#[test]
fn golden_vectors() {
    let keys = keys();
    assert_eq!(NameHash::of("opensips/lagos-1").0, GOLDEN_NAME);
    let call = keys.call(b"a84b4c76e66710@pc33.atlanta.com");
    assert_eq!(call, GOLDEN_CALL);
    let transaction = keys.transaction(&Transaction {
        call,
        branch: b"776asdhds",
        sent_by: b"pc33.atlanta.com",
        sent_by_port: 5060,
        cseq: 314159,
        from_tag: b"1928301774",
        uri: b"sip:bob@biloxi.com",
    });
    assert_eq!(transaction, GOLDEN_TRANSACTION);
    let branch = Branch { direction: Direction::ToServer, server: NameHash::of("opensips/lagos-1"), transaction };
    let (text, mac) = branch.seal(call, &keys);
    assert_eq!(std::str::from_utf8(&text).unwrap(), GOLDEN_BRANCH);
    let way = Way {
        frontend: NameHash::of("sip"),
        flow: FlowToken::Ends { local: address("203.0.113.10:5060"), remote: address("198.51.100.7:31234") },
        stick: None,
    };
    let mut text = [0; WAY_LEN_MAX];
    let len = way.seal(&mac, &keys, &mut text);
    assert_eq!(std::str::from_utf8(&text[..len]).unwrap(), GOLDEN_WAY);
    assert_eq!(text_of(&sealed(SealedIn::RecordRoute), call, &keys), GOLDEN_RECORD_ROUTE);
    assert_eq!(text_of(&sealed(SealedIn::Path), call, &keys), GOLDEN_PATH);
    assert_eq!(std::str::from_utf8(&keys.tag(transaction)).unwrap(), GOLDEN_TAG);
    assert_eq!(keys.fingerprint(), GOLDEN_FINGERPRINT);
}

// Computed by an independent implementation (SipHash and base32 written anew in Python), not by this code.
const GOLDEN_NAME: u32 = 2_360_493_376;
const GOLDEN_CALL: u64 = 0x448e_f976_dad0_82cc;
const GOLDEN_TRANSACTION: u64 = 0x3022_3ccb_a29b_a98a;
const GOLDEN_BRANCH: &str = "ccglerkagardzs5ctouyu7dx63nwn4p4la";
const GOLDEN_WAY: &str = "ccg4ch5rzmahccqtytddgzahpibjzbxe4j4xf7co";
const GOLDEN_RECORD_ROUTE: &str = "cabafdfsivai3qi7whfqa4ikcpcmmm3ea55afkp3wghyxqwzki";
const GOLDEN_PATH: &str = "cebafdfsivai3qi7whfqa4ikcpcmmm3ea55afmjx7w2hj3ez6e";
const GOLDEN_TAG: &str = "2frqxarb7gxko";
const GOLDEN_FINGERPRINT: u64 = 0x48da_1199_c217_b1bd;

#[test]
fn lengths_are_what_the_message_budget_counts_on() {
    assert_eq!((BRANCH_LEN, TAG_LEN, TIME_LEN), (34, 13, 13));
    assert_eq!(text_of(&sealed(SealedIn::Path), 0, &keys()).len(), 50);
    assert_eq!((SEALED_V6, SEALED_LEN_MAX), (88, 96));
}

#[test]
fn a_record_route_token_is_bound_to_its_call_and_a_path_token_is_not() {
    let keys = keys();
    let record_route = text_of(&sealed(SealedIn::RecordRoute), 7, &keys);
    assert_eq!(Sealed::open(record_route.as_bytes(), 7, &keys), Ok(sealed(SealedIn::RecordRoute)));
    assert_eq!(Sealed::open(record_route.as_bytes(), 8, &keys), Err(TokenError::Forged));
    let path = text_of(&sealed(SealedIn::Path), 7, &keys);
    assert_eq!(Sealed::open(path.as_bytes(), 8, &keys), Ok(sealed(SealedIn::Path)));
}

#[test]
fn rotation_of_seal_keys_keeps_what_was_sealed_before() {
    let old = SealKey { id: 1, secret: [0x11; 16] };
    let new = SealKey { id: 2, secret: [0x22; 16] };
    let before = Keys::new([0; 16], &[old], 1).unwrap();
    let accepting = Keys::new([0; 16], &[old, new], 1).unwrap();
    let after = Keys::new([0; 16], &[old, new], 2).unwrap();
    let retired = Keys::new([0; 16], &[new], 2).unwrap();
    let from_before = text_of(&sealed(SealedIn::RecordRoute), 7, &before);
    let from_after = text_of(&sealed(SealedIn::RecordRoute), 7, &after);
    for keys in [&accepting, &after] {
        assert!(Sealed::open(from_before.as_bytes(), 7, keys).is_ok());
        assert!(Sealed::open(from_after.as_bytes(), 7, keys).is_ok());
    }
    assert_eq!(Sealed::open(from_after.as_bytes(), 7, &before), Err(TokenError::UnknownKey));
    assert_eq!(Sealed::open(from_before.as_bytes(), 7, &retired), Err(TokenError::UnknownKey));
    // The branch is no matter of seal keys: retransmissions and CANCEL agree through a rotation.
    let branch = Branch { direction: Direction::ToServer, server: NameHash(1), transaction: 2 };
    assert_eq!(branch.seal(3, &before).0, branch.seal(3, &after).0);
}

#[test]
fn a_way_is_bound_to_its_branch() {
    let keys = keys();
    let seal =
        |transaction| Branch { direction: Direction::ToServer, server: NameHash(1), transaction }.seal(3, &keys).1;
    let way = Way {
        frontend: NameHash(3),
        flow: FlowToken::Ends { local: address("[2001:db8::1]:5060"), remote: address("[2001:db8::2]:9") },
        stick: Some(5),
    };
    let mut text = [0; WAY_LEN_MAX];
    let len = way.seal(&seal(1), &keys, &mut text);
    assert_eq!(Way::open(&text[..len], &seal(1), &keys), Ok(way));
    assert_eq!(Way::open(&text[..len], &seal(2), &keys), Err(TokenError::Forged));
}

#[test]
fn a_branch_is_bound_to_its_call() {
    let keys = keys();
    let branch = Branch { direction: Direction::ToClient, server: NameHash(9), transaction: 77 };
    let (text, mac) = branch.seal(7, &keys);
    assert_eq!(Branch::open(&text, 7, &keys), Ok((branch, mac)));
    assert_eq!(Branch::open(&text, 8, &keys), Err(TokenError::Forged));
}

/// Every text that differs from `token` in one bit.
fn flipped(token: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..token.len() * 8).map(|bit| {
        let mut text = token.to_vec();
        text[bit / 8] ^= 1 << (bit % 8);
        text
    })
}

#[test]
fn no_flipped_bit_passes() {
    let keys = keys();
    let branch = Branch { direction: Direction::ToClient, server: NameHash(9), transaction: 77 };
    let (text, mac) = branch.seal(3, &keys);
    for forged in flipped(&text).filter(|forged| !forged.eq_ignore_ascii_case(&text)) {
        assert!(Branch::open(&forged, 3, &keys).is_err(), "{}", String::from_utf8_lossy(&forged));
    }
    let flow = FlowToken::Ends { local: address("10.0.0.1:5060"), remote: address("10.0.0.2:9") };
    let way = Way { frontend: NameHash(3), flow, stick: None };
    let mut text = [0; WAY_LEN_MAX];
    let len = way.seal(&mac, &keys, &mut text);
    for forged in flipped(&text[..len]).filter(|forged| !forged.eq_ignore_ascii_case(&text[..len])) {
        assert!(Way::open(&forged, &mac, &keys).is_err());
    }
    let text = text_of(&sealed(SealedIn::RecordRoute), 7, &keys);
    for forged in flipped(text.as_bytes()).filter(|forged| !forged.eq_ignore_ascii_case(text.as_bytes())) {
        assert!(Sealed::open(&forged, 7, &keys).is_err());
    }
}

#[test]
fn upper_case_means_the_same() {
    let keys = keys();
    let branch = Branch { direction: Direction::ToServer, server: NameHash(9), transaction: 77 };
    let text = branch.seal(3, &keys).0.to_ascii_uppercase();
    assert_eq!(Branch::open(&text, 3, &keys).map(|(branch, _)| branch), Ok(branch));
}

proptest! {
    #[test]
    fn any_text_is_refused_without_panic(text in proptest::collection::vec(any::<u8>(), 0..100)) {
        let keys = keys();
        prop_assert!(Branch::open(&text, 0, &keys).is_err());
        let branch = RawBranch { raw: [0; 3], call: 0 };
        prop_assert!(Way::open(&text, &branch, &keys).is_err());
        prop_assert!(Sealed::open(&text, 0, &keys).is_err());
    }

    #[test]
    fn fields_of_a_transaction_do_not_run_into_each_other(branch in "[a-z]{0,6}", tag in "[a-z]{0,6}", cut in 0usize..6) {
        let keys = keys();
        let of = |branch: &str, from_tag: &str| keys.transaction(&Transaction {
            call: 1, branch: branch.as_bytes(), sent_by: b"h", sent_by_port: 1, cseq: 1, from_tag: from_tag.as_bytes(), uri: b"u",
        });
        let joined = format!("{branch}{tag}");
        let cut = cut.min(joined.len());
        let (left, right) = joined.split_at(cut);
        prop_assert_eq!(of(left, right) == of(&branch, &tag), left == branch);
    }
}

proptest! {
    #[test]
    fn a_send_time_reads_back_in_either_case(node: u16, opens: bool, micros in 0u64..1 << 47, passed in 0u64..1 << 40) {
        let time = SendTime { node, opens, micros };
        let text = time.write();
        prop_assert_eq!(SendTime::read(&text), Some(time));
        prop_assert_eq!(SendTime::read(&text.to_ascii_uppercase()), Some(time));
        prop_assert_eq!(SendTime::read(&text[1..]), None);
        prop_assert_eq!(time.age(micros + passed), passed);
        prop_assert!(passed == 0 || time.age(micros.wrapping_sub(passed)) > 1 << 46, "what lies ahead is no age");
    }
}
