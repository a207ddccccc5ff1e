//! `stoa verify --again` over a store of zips, the whole process, against a raw loop in the same run that
//! inflates and hashes every entry with zlib and SHA-256 alone, with as many threads.
//!
//! The raw loop is handed each zip as a file name and its entries as offsets and sizes; it parses nothing, checks
//! nothing and knows no module. The zips hold text like that of sources (they shrink to about a quarter), one MiB
//! each, and are in the page cache. Rounds alternate. `--brief` takes a smaller store; `--mib N`, `--rounds N` and
//! `--threads N` ask for others.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench makes its own files, and one that cannot run says why and ends"
)]

mod measure;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flate2::{Decompress, FlushDecompress, Status};
use measure::{Asked, alternating, median, timed};
use sha2::{Digest, Sha256};
use stoa_gomod::ModuleVersion;
use testkit::{STOA, create};

const AIM: f64 = 0.85;

/// How large the zips are, about.
const ZIP: usize = 1 << 20;

/// How many words a file has.
const OWN_WORDS: usize = 90;

/// How many different zips there are: each takes a while to make.
const KINDS: usize = 16;

fn main() {
    testkit::set(testkit::built!());
    let asked = Asked::of_process();
    let brief = asked.has("--brief");
    let mib = asked.number("--mib", if brief { 128 } else { 2048 });
    let rounds = asked.number("--rounds", if brief { 3 } else { 5 });
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = asked.number("--threads", all);

    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().join("store");
    create(&root);
    let (zips, bytes, content) = fill(&root, mib);
    let ratio = content as f64 / bytes as f64;
    println!("{} zips, {} MiB, contents {ratio:.1} times that, {threads} threads", zips.len(), bytes >> 20);
    let (mut raw, mut whole) = (Vec::new(), Vec::new());
    // Seals everything, and brings everything into memory.
    verify(&root, threads);
    for round in 0..rounds {
        let times = alternating(round, || raw_loop(&zips, threads), || verify(&root, threads));
        raw.push(times.0);
        whole.push(times.1);
    }
    let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
    let rates = |times: &[Duration]| {
        times.iter().map(|time| format!("{:.0}", rate(*time))).collect::<Vec<_>>().join(" ")
    };
    println!("zlib and SHA-256, MB/s       {}", rates(&raw));
    println!("stoa verify --again, MB/s    {}", rates(&whole));
    let ratio = median(raw).as_secs_f64() / median(whole).as_secs_f64();
    println!("ratio                        {ratio:.2} (aim: at least {AIM})");
}

/// The input of the raw loop for a zip.
struct Zip {
    path: PathBuf,
    /// The start of the data of each entry, and its sizes.
    entries: Vec<(usize, usize, usize)>,
}

/// Fills a store with versions that are not sealed; their zips, and the bytes of the zips and of their contents.
fn fill(root: &Path, mib: usize) -> (Vec<Zip>, usize, usize) {
    let (mut zips, mut bytes, mut content) = (Vec::new(), 0, 0);
    // The prefix is in each header, so a version of the same length has the same zip but for that.
    for kind in 0..KINDS {
        let name = |n: usize| format!("example.com/bench/m{kind:02}@v1.0.{n}");
        let first = ModuleVersion::parse(&name(10_000)).expect("a valid pair");
        let (files, size) = sources(kind as u64);
        let modfile = format!("module {}\n", first.path());
        let named: Vec<(String, Vec<u8>)> =
            std::iter::once(("go.mod".to_owned(), modfile.clone().into_bytes())).chain(files).collect();
        let template = stoa_gomod::zip::create(
            &first,
            named.iter().map(|(name, file)| (name.as_str(), file.as_slice())),
        );
        let template = template.expect("valid files");
        let entries = entries(&template);
        for n in 0.. {
            if bytes >= (mib << 20) * (kind + 1) / KINDS {
                break;
            }
            let version = ModuleVersion::parse(&name(10_000 + n)).expect("a valid pair");
            let mut zip = template.clone();
            rename_entries(&mut zip, &first.to_string(), &version.to_string());
            let folder = root
                .join("modules")
                .join(version.path().escaped())
                .join("@v")
                .join(version.version().as_str());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("mod"), &modfile).unwrap();
            fs::write(folder.join("zip"), &zip).unwrap();
            fs::write(folder.join("info"), format!("{{\"Version\":\"{}\"}}", version.version())).unwrap();
            bytes += zip.len();
            content += size;
            zips.push(Zip { path: folder.join("zip"), entries: entries.clone() });
        }
    }
    (zips, bytes, content)
}

/// Names the entries of a zip after another version of the same length.
fn rename_entries(zip: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    if from == to {
        return;
    }
    let from = from.as_bytes();
    let mut at = 0;
    while at + from.len() <= zip.len() {
        // A text of that length does not occur in compressed data by chance.
        if zip[at] == from[0] && zip[at..].starts_with(from) {
            zip[at..at + from.len()].copy_from_slice(to.as_bytes());
            at += from.len();
        } else {
            at += 1;
        }
    }
}

/// Reads the directory of a zip made here.
fn entries(zip: &[u8]) -> Vec<(usize, usize, usize)> {
    let number = |at: usize, bytes: usize| {
        zip[at..at + bytes].iter().rev().fold(0usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let end = zip.len() - 22;
    let mut at = number(end + 16, 4);
    let mut entries = Vec::new();
    while at < end {
        let (compressed, size, header) = (number(at + 20, 4), number(at + 24, 4), number(at + 42, 4));
        let data = header + 30 + number(header + 26, 2) + number(header + 28, 2);
        entries.push((data, compressed, size));
        at += 46 + number(at + 28, 2) + number(at + 30, 2) + number(at + 32, 2);
    }
    entries
}

/// Files of text like that of sources, as many as make a zip of the size wanted, and their size.
fn sources(seed: u64) -> (Vec<(String, Vec<u8>)>, usize) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let words: Vec<String> = (0..1500)
        .map(|_| {
            (0..3 + next(9))
                .map(|_| char::from(b"etaoinshrdlucmfwypvbgkjqxz"[next(26).min(next(26))]))
                .collect()
        })
        .collect();
    let shapes: [&[&str]; 8] = [
        &["\tif ", " != nil {\n\t\treturn ", ", err\n\t}\n"],
        &["\t", " := ", ".", "(", ", ", ")\n"],
        &["func (", " *", ") ", "(ctx context.Context, ", " string) error {\n"],
        &["\t\t", ": ", ",\n"],
        &["// ", " ", " ", " the ", " of ", " is ", ".\n"],
        &["\tfor _, ", " := range ", " {\n\t\t", "(", ")\n\t}\n"],
        &["\treturn fmt.Errorf(\"", " ", ": %w\", ", ")\n}\n\n"],
        &["\tcase ", ".", ":\n\t\t", " = ", "\n"],
    ];
    let (mut files, mut total) = (Vec::new(), 0);
    // A text like this shrinks to a third or a quarter.
    while total < ZIP * 37 / 10 {
        let mut text = format!("package p{}\n\n", next(100)).into_bytes();
        // Most files of a module are small, a few are large.
        let size = 2000 + next(12_000) + if next(12) == 0 { next(120_000) } else { 0 };
        // A file speaks of some things again and again.
        let own: Vec<&String> = (0..OWN_WORDS).map(|_| &words[next(words.len())]).collect();
        while text.len() < size {
            for part in shapes[next(shapes.len())] {
                text.extend_from_slice(part.as_bytes());
                text.extend_from_slice(own[next(OWN_WORDS).min(next(OWN_WORDS))].as_bytes());
            }
            text.push(b'\n');
        }
        total += text.len();
        files.push((format!("internal/p{}/file_{}.go", files.len() % 20, files.len()), text));
    }
    (files, total)
}

/// Reads each zip and inflates and hashes its entries.
fn raw_loop(zips: &[Zip], threads: usize) -> Duration {
    use std::io::Read;
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let (mut inflate, mut zip, mut content) = (Decompress::new(false), Vec::new(), Vec::new());
                while let Some(one) = zips.get(next.fetch_add(1, Ordering::Relaxed)) {
                    zip.clear();
                    fs::File::open(&one.path).unwrap().read_to_end(&mut zip).unwrap();
                    for (at, compressed, size) in &one.entries {
                        if content.len() < *size {
                            content.resize(*size, 0);
                        }
                        inflate.reset(false);
                        let (from, to) = (&zip[*at..at + compressed], &mut content[..*size]);
                        let status = inflate.decompress(from, to, FlushDecompress::Finish).unwrap();
                        assert_eq!((status, inflate.total_out()), (Status::StreamEnd, *size as u64));
                        std::hint::black_box(Sha256::digest(&content[..*size]));
                    }
                }
            });
        }
    });
    begin.elapsed()
}

fn verify(root: &Path, threads: usize) -> Duration {
    let mut command = Command::new(STOA);
    command.args(["verify", "--again", "--quiet", "--threads", &threads.to_string(), "--store"]).arg(root);
    timed(command.env_remove("STOA_LOG"))
}
