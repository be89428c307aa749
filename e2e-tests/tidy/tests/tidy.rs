//! Owns the shape of the repository: it reads the source as text and names what is out of place.
//! Refuses to look at behaviour, and at anything that clippy can see.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each of them may use; with its tests also `testkit`. Downward only.
const MAY_USE: &[(&str, &[&str])] = &[
    ("saga", &[]),
    ("contracts", &["saga"]),
    ("store", &["saga"]),
    ("bus", &["saga"]),
    ("calls", &["saga"]),
    ("api", &["saga"]),
    ("telemetry", &["saga"]),
    ("chassis", &["saga", "store", "bus", "calls", "api", "telemetry"]),
    ("testkit", &["saga", "store"]),
    ("order", SERVICE_MAY_USE),
    ("inventory", SERVICE_MAY_USE),
    ("payment", SERVICE_MAY_USE),
    ("shipping", SERVICE_MAY_USE),
    // Third parties and the judge share no code with the services, the command line only the tables
    // that all of them have, and the topics.
    ("providers", &[]),
    ("switchback", &["bus", "store", "testkit"]),
    ("e2e-tests", &["testkit"]),
    ("model", &["saga", "contracts", "calls", "order", "inventory", "payment", "shipping"]),
    ("tidy", &[]),
    ("bench", BENCH_MAY_USE),
];
/// Its opponents run the services' own decisions and rows, in shells of their own.
const BENCH_MAY_USE: &[&str] = &[
    "saga",
    "contracts",
    "store",
    "bus",
    "calls",
    "api",
    "telemetry",
    "chassis",
    "order",
    "inventory",
    "payment",
    "shipping",
    "testkit",
    "e2e-tests",
];
const SERVICE_MAY_USE: &[&str] =
    &["saga", "contracts", "store", "calls", "api", "telemetry", "chassis"];

/// These know no event and no order by name.
const NAMELESS: [&str; 5] = ["saga", "store", "bus", "calls", "chassis"];

/// Service, source files, lines of code: past that, the chassis has failed.
const SIZES_MAX: [(&str, usize, usize); 4] =
    [("payment", 8, 400), ("shipping", 8, 400), ("inventory", 8, 500), ("order", 11, 1_000)];

const FILE_LINES_MAX: usize = 300;

struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.extension() == "rs"
    }

    fn extension(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// `shared/bus` of `shared/bus/src/lib.rs`: where the manifest lies.
    fn package(&self) -> &str {
        ["/src/", "/tests/", "/examples/", "/Cargo.toml", "/migrations/", "/README.md", "/build.rs"]
            .iter()
            .filter_map(|mark| self.path.find(mark))
            .min()
            .map_or("", |end| &self.path[..end])
    }

    fn crate_name(&self) -> &str {
        self.package().rsplit('/').next().unwrap_or_default()
    }

    /// Code that is shipped, and the tests below it.
    fn split(&self) -> (&str, &str) {
        if self.path.contains("/tests/") || self.name() == "tests.rs" {
            return ("", &self.text);
        }
        self.text
            .find("#[cfg(test)]\nmod tests {")
            .map_or((&*self.text, ""), |start| self.text.split_at(start))
    }

    fn shipped(&self) -> &str {
        self.split().0
    }

    /// Lines of code: neither blank nor a comment, tests not counted.
    fn lines(&self) -> usize {
        code(self.shipped()).count()
    }

    fn comments(&self) -> impl Iterator<Item = &str> {
        let mark = match self.extension() {
            "rs" => "//",
            "sql" => "--",
            "md" => "",
            _ => "#",
        };
        self.text.lines().filter_map(move |line| line.find(mark).map(|start| &line[start..]))
    }
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every text file of the repository.
fn tree() -> Vec<File> {
    let root = root();
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository can be listed") {
            let path = entry.expect("an entry can be read").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !["target", ".git", ".tools"].contains(&name) {
                    folders.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(&root).expect("it lies below the root");
                files.push(File { path: path.display().to_string(), text });
            }
        }
    }
    assert!(files.iter().filter(|file| file.is_rust()).count() > 15, "the source was not found");
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

type Offenders = Vec<String>;

/// The files in which `found` sees something.
fn offenders(files: &[File], found: impl Fn(&File) -> bool) -> Offenders {
    files.iter().filter(|file| found(file)).map(|file| file.path.clone()).collect()
}

/// Of all its dependencies those that are ours: section and name.
fn our_dependencies(manifest: &File) -> impl Iterator<Item = (&str, &str)> {
    let mut section = "";
    manifest.text.lines().filter_map(move |line| {
        if line.starts_with('[') {
            section = line;
        }
        let name = line.split(['.', ' ', '=']).next()?;
        let ours = MAY_USE.iter().any(|(krate, _)| *krate == name);
        (section.contains("dependencies]") && ours).then_some((section, name))
    })
}

fn dependencies_that_point_upward(files: &[File]) -> Offenders {
    let mut found = Offenders::new();
    for manifest in files.iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let Some((_, may)) = MAY_USE.iter().find(|(krate, _)| *krate == manifest.crate_name())
        else {
            found.push(format!("{}: says nowhere what it may use", manifest.path));
            continue;
        };
        for (section, used) in our_dependencies(manifest) {
            let for_tests = section == "[dev-dependencies]" && used == "testkit";
            if !may.contains(&used) && !for_tests {
                found.push(format!("{} uses {used}", manifest.path));
            }
        }
    }
    found
}

/// As they stand in the contracts: `"OrderPlaced"`.
fn event_names(files: &[File]) -> BTreeSet<String> {
    let contracts = files.iter().filter(|file| file.path.starts_with("shared/contracts/src/"));
    contracts
        .flat_map(|file| code(file.shipped()))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(|word| {
            word.starts_with(char::is_uppercase)
                && word.chars().all(char::is_alphabetic)
                && word.chars().filter(|letter| letter.is_uppercase()).count() > 1
                && word.contains(char::is_lowercase)
        })
        .map(str::to_owned)
        .collect()
}

fn names_in_the_shell(files: &[File]) -> Offenders {
    let mut banned = event_names(files);
    banned.extend(["order_id".to_owned(), "OrderId".to_owned()]);
    let nameless = files.iter().filter(|file| NAMELESS.contains(&file.crate_name()));
    nameless
        .flat_map(|file| {
            let words = banned.iter().filter(|word| file.text.contains(word.as_str()));
            words.map(move |word| format!("{}: {word}", file.path))
        })
        .collect()
}

fn transactions_begun_outside_the_store(files: &[File]) -> Offenders {
    offenders(files, |file| {
        file.is_rust()
            && !["shared/store", "bench"].contains(&file.package())
            && code(&file.text).any(|line| line.contains(&[".beg", "in("].concat()))
    })
}

fn sql_outside_a_store(files: &[File]) -> Offenders {
    offenders(files, |file| {
        file.name() != "store.rs"
            && !["shared/store", "shared/testkit", "e2e-tests", "bench"].contains(&file.package())
            && file.is_rust()
            && code(file.shipped()).any(|line| {
                ["sqlx::query", "query_as", "query_scalar", "raw_sql"]
                    .iter()
                    .any(|sql| line.contains(sql))
            })
    })
}

fn kafka_outside_the_bus(files: &[File]) -> Offenders {
    offenders(files, |file| {
        let source = file.is_rust() || file.name() == "Cargo.toml";
        source
            && !["", "shared/bus", "shared/testkit", "e2e-tests/tidy", "bench"]
                .contains(&file.package())
            && code(&file.text).any(|line| line.contains("rdkafka"))
    })
}

fn long_files(files: &[File]) -> Offenders {
    let long = |file: &&File| {
        file.is_rust() && file.name() != "domain.rs" && file.lines() > FILE_LINES_MAX
    };
    let told = |file: &File| format!("{}: {} lines of code", file.path, file.lines());
    files.iter().filter(long).map(told).collect()
}

fn big_services(files: &[File]) -> Offenders {
    let sizes = SIZES_MAX.map(|(service, files_max, lines_max)| {
        let source = format!("services/{service}/src/");
        let own = files.iter().filter(|file| file.is_rust() && file.path.starts_with(&source));
        let (count, lines) = own.fold((0, 0), |(n, lines), file| (n + 1, lines + file.lines()));
        println!("{service}: {count} files of {files_max}, {lines} lines of {lines_max}");
        (count > files_max || lines > lines_max)
            .then(|| format!("{service}: {count} files, {lines} lines of code"))
    });
    sizes.into_iter().flatten().collect()
}

fn sleeping_tests(files: &[File]) -> Offenders {
    offenders(files, |file| {
        let tests = if file.package() == "e2e-tests" { &file.text } else { file.split().1 };
        file.is_rust() && code(tests).any(|line| line.contains(&["sle", "ep("].concat()))
    })
}

/// What is heard and what is decided on a state is answered case by case, so that a forgotten one
/// does not compile.
fn wildcards_for_a_state(files: &[File]) -> Offenders {
    offenders(files, |file| {
        let thoughts = ["pub fn route(", "pub fn decide("].into_iter().filter_map(|head| {
            let body = file.shipped().split_once(head)?.1;
            body.split("\n}").next()
        });
        let wildcard = |line: &str| ["_ =>", "(_,"].iter().any(|open| line.starts_with(open));
        file.name() == "domain.rs" && thoughts.flat_map(code).any(wildcard)
    })
}

/// A domain knows no clock, no chance, no socket and no table.
fn impure_domains(files: &[File]) -> Offenders {
    const BANNED: [&str; 9] = [
        "async ",
        "chrono",
        "sqlx",
        "tokio",
        "tracing",
        "rand::",
        "Instant",
        "SystemTime",
        "store::",
    ];
    offenders(files, |file| {
        file.name() == "domain.rs"
            && code(file.shipped()).any(|line| BANNED.iter().any(|word| line.contains(word)))
    })
}

fn silenced_lints(files: &[File]) -> Offenders {
    let attributes = ["#[", "#!["].map(|open| [open, "allow("].concat());
    offenders(files, |file| {
        file.is_rust() && attributes.iter().any(|attribute| file.text.contains(attribute))
    })
}

/// A source file that no `mod` names is compiled by nobody.
fn dead_files(files: &[File]) -> Offenders {
    offenders(files, |file| {
        let root = ["lib.rs", "main.rs"].contains(&file.name()) || file.path.contains("/src/bin/");
        let module = format!("mod {};", file.name().trim_end_matches(".rs"));
        let named = |other: &File| {
            other.package() == file.package()
                && code(&other.text).any(|line| line.ends_with(&module))
        };
        file.is_rust() && file.path.contains("/src/") && !root && !files.iter().any(named)
    })
}

/// Codes and paths of a workshop mean nothing to a reader.
fn references_to_elsewhere(files: &[File]) -> Offenders {
    let is_code = |word: &str| {
        (2..=3).contains(&word.len())
            && word.starts_with(|letter| "ACDEHKOPQTW".contains(letter))
            && word[1..].bytes().all(|digit| digit.is_ascii_digit())
    };
    let workshop = ["/wo", "rk/"].concat();
    offenders(files, |file| {
        let generated = file.name() == "Cargo.lock" || file.name().starts_with("LICENSE");
        let in_comments = file
            .comments()
            .flat_map(|line| line.split(|letter: char| !letter.is_alphanumeric() && letter != '_'))
            .any(is_code);
        !generated && (in_comments || file.text.contains(&workshop))
    })
}

type Rule = fn(&[File]) -> Offenders;

const RULES: [(&str, Rule); 13] = [
    ("a dependency upward", dependencies_that_point_upward),
    ("a name in a crate that knows none", names_in_the_shell),
    ("a transaction begun outside the store", transactions_begun_outside_the_store),
    ("SQL outside a store", sql_outside_a_store),
    ("Kafka outside the bus", kafka_outside_the_bus),
    ("a file that is too long", long_files),
    ("a service that is too big", big_services),
    ("a test that sleeps", sleeping_tests),
    ("a wildcard for a state", wildcards_for_a_state),
    ("a domain that is not pure", impure_domains),
    ("a lint that is silenced", silenced_lints),
    ("a file that nobody compiles", dead_files),
    ("a reference to elsewhere", references_to_elsewhere),
];

#[test]
fn nothing_is_out_of_place() {
    let files = tree();
    let found: Vec<_> = RULES
        .iter()
        .flat_map(|(what, rule)| rule(&files).into_iter().map(move |who| format!("{what}: {who}")))
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_rule_finds_its_offender() {
    let long = "x\n".repeat(501);
    let allow = ["#[", "allow(dead_code)]"].concat();
    let samples: [(&str, &str); RULES.len()] = [
        ("shared/bus/Cargo.toml", "[dependencies]\ncontracts.workspace = true"),
        ("shared/bus/src/lib.rs", "let order_id = 1;"),
        ("services/order/src/store.rs", "pool.beg\u{69}n().await"),
        ("services/order/src/http.rs", "sqlx::query(\"select 1\")"),
        ("services/order/src/http.rs", "use rdkafka::Message;"),
        ("shared/bus/src/lib.rs", &long),
        ("services/payment/src/domain.rs", &long),
        ("shared/bus/tests/x.rs", "sle\u{65}p(SECOND).await;"),
        ("services/order/src/domain.rs", "pub fn decide() {\n    _ => Unchanged,\n}"),
        ("services/order/src/domain.rs", "use tokio::time;"),
        ("shared/bus/src/lib.rs", &allow),
        ("shared/bus/src/forgotten.rs", "fn f() {}"),
        ("shared/bus/src/lib.rs", "// Because of \u{50}13."),
    ];
    for ((what, rule), (path, text)) in RULES.into_iter().zip(samples) {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        assert_eq!(rule(&[file]).len(), 1, "{what}");
    }
}

#[test]
fn the_contracts_name_their_events() {
    let names = event_names(&tree());
    for name in ["OrderPlaced", "InventoryReleased", "ReleaseInventory", "RefundPayment"] {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
}

/// Each is named for another program, so no single place can say it for all.
const VERSIONS: [(&str, &[(&str, &str)]); 3] = [
    (
        "Kafka",
        &[
            (".env", "apache/kafka:"),
            ("deploy/kafka/pom.xml", "<artifactId>kafka_2.13</artifactId>\n      <version>"),
            ("scripts/setup", "\nKAFKA="),
            ("shared/testkit/src/parts.rs", "\"kafka-"),
        ],
    ),
    (
        "Jaeger",
        &[
            (".env", "jaegertracing/jaeger:"),
            ("scripts/setup", "\nJAEGER="),
            ("shared/testkit/src/parts.rs", "\"jaeger-"),
        ],
    ),
    ("Rust", &[(".env", "\nRUST_IMAGE=rust:"), ("deploy/Dockerfile", "\nARG RUST_IMAGE=rust:")]),
];

#[test]
fn a_part_has_one_version_wherever_it_is_named() {
    for (part, places) in VERSIONS {
        let versions: BTreeSet<String> = places
            .iter()
            .map(|(path, before)| {
                let text = fs::read_to_string(root().join(path)).expect("it is in the repository");
                let (_, after) =
                    text.split_once(before).unwrap_or_else(|| panic!("{path}: {before}"));
                after
                    .chars()
                    .take_while(|letter| letter.is_ascii_digit() || *letter == '.')
                    .collect()
            })
            .collect();
        assert!(versions.len() == 1 && !versions.contains(""), "{part}: {versions:?}");
    }
}
