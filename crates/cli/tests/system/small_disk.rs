//! Production's log lies on a small disk, and Pando is away for longer than that disk could hold (T-12).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pando_testkit::{FsKind, LoopFs, wait_until};

use crate::any_second::{Oracle, row, table};
use crate::stand::{Stand, with};

#[test]
fn t12_pando_is_away_and_production_with_a_512_mb_disk_for_its_log_never_stops() {
    let Some(disk) = LoopFs::new(FsKind::Ext4, 512) else { return };
    fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut options = with(&["max_slot_wal_keep_size = '128MB'", "max_wal_size = '96MB'", "min_wal_size = '32MB'"]);
    options.initdb = vec![format!("--waldir={}", disk.path().join("wal").display())];
    let Some(mut stand) = Stand::of(options) else { return };
    table(&stand.production);
    stand.link(&["--snapshot-every", "2s"]);
    let mut oracle = Oracle::default();
    let mut client = stand.production.client("postgres");
    for _ in 0..30 {
        oracle.commit(&mut client, row);
        std::thread::sleep(Duration::from_millis(100));
    }
    stand.daemon.kill9();
    stand.daemon.kill_units();

    // More than the whole disk, and after each piece production commits as ever.
    let pid = stand.production.pid();
    let (mut most, mut written) = (0, 0_u64);
    client.batch_execute("CREATE TABLE fat (n text)").unwrap();
    while written < 640 << 20 {
        let before = stand.production.psql("SELECT pg_current_wal_lsn()");
        client
            .batch_execute("INSERT INTO fat SELECT repeat('x', 900) FROM generate_series(1, 40000); TRUNCATE fat")
            .unwrap();
        oracle.commit(&mut client, row);
        let wrote = stand.production.psql(&format!("SELECT pg_current_wal_lsn() - '{before}'"));
        written += wrote.parse::<u64>().unwrap();
        let used: u64 = stand.production.psql("SELECT sum(size) FROM pg_ls_waldir()").parse().unwrap();
        most = most.max(used);
    }
    client.batch_execute("CHECKPOINT").unwrap();
    assert_eq!(stand.production.pid(), pid);
    assert!(!stand.production.log().contains("PANIC"), "{}", stand.production.log());
    assert!(most < 400 << 20, "{} MB of 512", most >> 20);
    let slots = "SELECT wal_status FROM pg_replication_slots";
    let lost = || {
        stand.production.psql("CHECKPOINT");
        stand.production.psql(slots) == "lost"
    };
    assert!(wait_until(Duration::from_secs(20), lost), "{}", stand.production.psql(slots));
    eprintln!("{} MB of log written while Pando was away, at most {} MB kept", written >> 20, most >> 20);

    // It comes back by itself with a new first copy, and shows the gap.
    stand.daemon.resume();
    let ranges = || stand.json(&["timeline", "shop"])["ranges"].as_array().unwrap().len();
    assert!(wait_until(Duration::from_secs(90), || ranges() == 2), "{}", stand.daemon.log());
    oracle.commit(&mut client, row);
    let rows = |stand: &Stand| {
        let made = stand.daemon.pando(&["clone", "shop@now", "now"]).status.success();
        made.then(|| stand.show("now").sql("SELECT count(*) FROM mark"))
    };
    let mut shown = None;
    assert!(wait_until(Duration::from_secs(60), || {
        shown = rows(&stand);
        shown.is_some()
    }));
    assert_eq!(shown, Some(stand.production.psql("SELECT count(*) FROM mark")));
    stand.json(&["rm", "now"]);
    stand.json(&["unlink", "shop"]);
    assert_eq!(stand.production.psql(slots), "");
    drop(client);
    stand.end(&["requested WAL segment", "removed", "new first copy"]);
    drop(disk);
}
