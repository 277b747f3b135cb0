//! Reads and writes pass: they go beneath in the name of the thread that they came from, not of the mapper's.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Deserializer, Value, json};

use crate::commands::connect;
use crate::process::{Load, Served, free_port};
use crate::{alone, configuration, target};

/// Asks SPDK itself.
pub fn ask(socket: &Path, method: &str, params: Value) -> Value {
    let mut stream = UnixStream::connect(socket).expect("SPDK listens");
    let mut request = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
    if !params.is_null() {
        request["params"] = params;
    }
    stream
        .write_all(request.to_string().as_bytes())
        .expect("sent");
    let mut reader = BufReader::new(stream);
    assert!(!reader.fill_buf().expect("an answer").is_empty());
    let answer = Deserializer::from_reader(reader)
        .into_iter::<Value>()
        .next();
    answer.expect("an answer").expect("JSON")["result"].take()
}

/// What a device of one piece is read and written by is submitted beneath by SPDK's target's thread; SPDK counts by thread.
#[test]
fn reads_and_writes_of_one_piece_pass() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("spdk.sock");
    let port = free_port();
    let text = configuration(
        port,
        "  - malloc: { name: ram0, size: 16MiB, block_size: 4096 }",
        "0 32768 linear ram0 0",
    )
    .replace(
        "hugepages: off",
        &format!("hugepages: off, rpc: {}", socket.display()),
    );
    let served = Served::start(&text);
    let (_controller, mut queue) = connect(port);
    let block = vec![1; 4096];
    for lba in 0..8 {
        queue.write(1, lba, &block, 4096).expect("written");
        assert_eq!(queue.read(1, lba, 1, 4096).expect("read"), block);
    }
    let threads = ask(&socket, "thread_get_stats", Value::Null);
    let mut threads = threads["threads"].as_array().expect("a list").iter();
    let mapper = threads.find(|thread| thread["name"] == "polldm_0");
    let mapper = &mapper.expect("the mapper's thread")["id"];
    // SPDKs that can be asked for several bdevs call it `names`.
    let asked = [
        json!({ "names": ["ram0"], "per_channel": true }),
        json!({ "name": "ram0", "per_channel": true }),
    ];
    let mut answers = asked
        .map(|params| ask(&socket, "bdev_get_iostat", params))
        .into_iter();
    let counts = answers.find(Value::is_object).expect("counts");
    let channels = counts["channels"].as_array().expect("a list").iter();
    let passed: u64 = channels
        .filter(|channel| channel["thread_id"] != *mapper)
        .map(|channel| {
            let count = |key: &str| channel[key].as_u64().expect("a number");
            count("num_read_ops").min(count("num_write_ops"))
        })
        .sum();
    assert!(passed > 0, "{counts}");
    assert_eq!(served.end(), Some(0));
}

/// A bdev is taken away beneath reads and writes that pass to two: those to the other go on, those to it fail, and none goes to the channels that were given back.
#[test]
fn a_bdev_is_pulled_beneath_what_passes() {
    let _alone = alone();
    let port = free_port();
    let bdevs = "  - malloc: { name: ram0, size: 8MiB, block_size: 4096 }
  - malloc: { name: ram1, size: 8MiB, block_size: 4096 }";
    let table = "0 32768 striped 2 8 ram0 0 ram1 0";
    let served = Served::start(&configuration(port, bdevs, table));
    let load = Load::start(&["bench", &target(port), "--rw", "randrw", "--time", "3s"]);
    served.wait_for(&["stats", "vol0"], |stats| stats.contains("write"));
    served.told(&["bdev", "remove", "--force", "ram0"]);
    let complaint = load.fails();
    assert!(complaint.contains("some I/O failed"), "{complaint}");
    let (_controller, mut queue) = connect(port);
    let block = vec![1; 4096];
    for lba in 0..64 {
        let is_there = lba % 2 == 1;
        assert_eq!(queue.write(1, lba, &block, 4096).is_ok(), is_there, "{lba}");
        assert_eq!(queue.read(1, lba, 1, 4096).is_ok(), is_there, "{lba}");
    }
    assert_eq!(served.end(), Some(0));
}
