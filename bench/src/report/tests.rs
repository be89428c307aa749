use super::*;
use crate::goals::tests::{five, soak};
use crate::record::{Measurement, Mode, Percentiles, Soak, What, Writer};

const FRAME: &str = "# A page\n\n<!-- bench: begin -->\nold\n<!-- bench: end -->\n\nBy hand.\n";

/// Five good rounds and a long run, with what only tables and pictures look at.
fn records() -> (Records, Records) {
    let (mut run, mut soak) = (five(), soak(1_000_000));
    for kept in &mut run.measurements {
        kept.accepted_ms = Some(Percentiles { p50: 3.0, p95: 4.0, p99: 5.0, max: 6.0 });
        kept.load_average = Some(2.5);
    }
    let cost = run.measurements[3].cpu_ms_per_saga.clone();
    for in_flight in [250, 1_000] {
        run.measurements.push(Measurement {
            cpu_ms_per_saga: cost.clone(),
            ..Measurement::new(1, Mode::Product, What::Loaded { in_flight })
        });
    }
    for kept in &mut soak.measurements {
        kept.cpu_ms_per_saga.clone_from(&cost);
        if let Some(Soak { pss_mb_last_quarter, .. }) = &mut kept.soak {
            pss_mb_last_quarter.insert("order".into(), 44.0);
        }
    }
    (run, soak)
}

/// A checkout with a page, and with results if there are any.
fn checkout(files: &[(&str, &Records)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::create_dir_all(folder.path().join("docs")).expect("a folder can be made");
    fs::create_dir_all(folder.path().join("bench/results")).expect("a folder can be made");
    fs::write(folder.path().join(PAGE), FRAME).expect("a page can be written");
    for (name, records) in files {
        let mut file = Writer::create(&folder.path().join(name), &records.header)
            .expect("results can be written");
        for measurement in &records.measurements {
            file.write(measurement).expect("results can be written");
        }
    }
    folder
}

fn report(folder: &tempfile::TempDir) -> Report {
    Report::of(folder.path()).expect("results and page can be read")
}

fn written(files: &[(&str, &Records)]) -> (tempfile::TempDir, Report) {
    let folder = checkout(files);
    report(&folder).write().expect("it can be written");
    let report = report(&folder);
    (folder, report)
}

#[test]
fn what_was_written_is_what_the_results_say_until_somebody_edits_it() {
    let (run, soak) = records();
    let (folder, report) = written(&[(RUN, &run), (SOAK, &soak)]);
    assert_eq!(report.differences().expect("readable"), Vec::<PathBuf>::new());
    let page = folder.path().join(PAGE);
    let picture = folder.path().join(PICTURES).join("throughput.svg");
    for (path, from, to) in
        [(&page, "| 100 [80.0..120] |", "| 900 |"), (&picture, "5000 [", "9000 [")]
    {
        let text = fs::read_to_string(path).expect("it was written");
        assert!(text.contains(from), "{}: {text}", path.display());
        fs::write(path, text.replace(from, to)).expect("it can be edited");
        assert_eq!(report.differences().expect("readable"), std::slice::from_ref(path));
        fs::write(path, text).expect("it can be put back");
    }
    fs::write(folder.path().join(PICTURES).join("old.svg"), "").expect("a file can be written");
    assert_eq!(report.differences().expect("readable").len(), 1, "nothing is known for it");
    report.write().expect("it can be written");
    assert_eq!(report.differences().expect("readable"), Vec::<PathBuf>::new());
}

#[test]
fn what_people_wrote_around_the_figures_stays() {
    let (run, soak) = records();
    let (_folder, report) = written(&[(RUN, &run), (SOAK, &soak)]);
    assert!(report.page.starts_with("# A page\n\n<!-- bench: begin -->\n"), "{}", report.page);
    assert!(report.page.ends_with("<!-- bench: end -->\n\nBy hand.\n"), "{}", report.page);
    assert!(!report.page.contains("\nold\n"), "{}", report.page);
    for broken in ["no marker", "<!-- bench: begin --> alone", "<!-- bench: end --> alone"] {
        with_section(broken, "figures").expect_err(broken);
    }
}

#[test]
fn the_page_leads_with_the_fair_comparisons() {
    let (run, soak) = records();
    let (_folder, report) = written(&[(RUN, &run), (SOAK, &soak)]);
    let first = report.page.split_once(BEGIN).expect("a marker").1.trim_start();
    let lead = "When all of them are saturated, the product finishes **10.0 times** [8.00..12.0] \
                as many sagas per second as the tuned opponent, and **20.0 times** [16.0..24.0] as \
                many as itself";
    assert!(first.starts_with(lead), "{first}");
    assert!(first.contains("but the textbook is a weak opponent"), "{first}");
}

#[test]
fn every_row_every_mode_and_every_process_is_on_the_page() {
    let (run, soak) = records();
    let (_folder, report) = written(&[(RUN, &run), (SOAK, &soak)]);
    let wanted = [
        "| 3 | saturated sagas/s, 500 inputs per commit : 1 | ≥ 20 | ≥ 35 | 20.0 [16.0..24.0] |",
        "| 16 | p99 : p50, at 20/s and at 100/s | ≤ 4 | ≤ 2.5 | 2.00 [2.00..2.00] at 20/s, 3.00 \
         [3.00..3.00] at 100/s | 5 | pass |",
        "on A processor with 2 cores and 8192 MB, Linux 6.1.",
        "PostgreSQL 15.18 with fsync on and synchronous_commit on; Apache Kafka 4.3.1.",
        "Meanwhile: load average 2.50 [2.50..2.50]. Of 52 measurements 0 were dropped.",
        "| textbook | 50.0 [50.0..50.0] | 4.10 [4.10..4.10] | 8000 [8000..8000] |",
        "| postgres | 4.00 | 2.00 | 4.00 | 0.100 |",
        "| providers | 5.00 |",
        "| product at 100/s, its end | 12.0 [12.0..12.0] | 36.0",
        "| product at 100/s, its 202 | 3.00 [3.00..3.00] |",
        "| raw bound, rows/s | 70000 [70000..70000] |",
        "| backlog: sagas finished per second | 300 [300..300] |",
        "| 1000000 | – | 0.200 [0.200..0.200] |",
        "the largest outbox took 16777216 bytes",
        "| order | – | 44.0 |",
    ];
    for wanted in wanted {
        assert!(report.page.contains(wanted), "{wanted} is not in\n{}", report.page);
    }
}

#[test]
fn what_is_short_or_dropped_or_missing_is_said() {
    let (mut run, _) = records();
    for kept in &mut run.measurements {
        if kept.mode == Mode::Product && kept.what == What::Saturated {
            kept.sagas_per_second = Some(1_000.0);
        }
        if kept.round == 5 && kept.mode == Mode::Tuned {
            kept.dropped = Some("others took 0.31 of the machine".into());
        }
    }
    let (_folder, report) = written(&[(RUN, &run)]);
    let wanted = [
        "- Row 1 misses its bound by 50.0 %.",
        "Without a verdict: 2, 11, 12.",
        "Of 52 measurements 1 were dropped: others took 0.31 of the machine (1).",
    ];
    for wanted in wanted {
        assert!(report.page.contains(wanted), "{wanted} is not in\n{}", report.page);
    }
}

#[test]
fn before_the_first_run_the_page_says_so_and_shows_no_picture() {
    let (folder, report) = written(&[]);
    assert!(report.page.contains("No run has been kept in which"), "{}", report.page);
    assert_eq!(report.pictures, []);
    assert_eq!(report.differences().expect("readable"), Vec::<PathBuf>::new());
    assert!(folder.path().join(PAGE).exists());
}

#[test]
fn a_file_of_results_that_cannot_be_read_is_an_error() {
    let folder = checkout(&[]);
    fs::write(folder.path().join(RUN), "{}\n").expect("it can be written");
    let error = format!("{:#}", Report::of(folder.path()).expect_err("it is no header"));
    assert!(error.contains("run.jsonl: line 1"), "{error}");
}

#[test]
fn all_pictures_are_drawn_and_each_is_one_element_whose_parts_all_end() {
    let (run, soak) = records();
    let pictures = pictures(Some(&run), Some(&soak));
    let names: Vec<_> = pictures.iter().map(|one| one.name).collect();
    let wanted =
        ["throughput.svg", "latency.svg", "cpu.svg", "cost-in-flight.svg", "cost-table-size.svg"];
    assert_eq!(names, wanted);
    for Picture { name, svg, .. } in &pictures {
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{name}");
        assert!(svg.contains("prefers-color-scheme:dark"), "{name}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}: {svg}");
        let mut open = vec![];
        for tag in svg.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("a tag ends");
            let element = tag.split(' ').next().unwrap_or_default();
            match element.strip_prefix('/') {
                Some(ended) => assert_eq!(open.pop(), Some(ended), "{name}"),
                None if tag.ends_with('/') => {}
                None => open.push(element),
            }
        }
        assert_eq!(open, Vec::<&str>::new(), "{name}");
    }
    assert_eq!(pictures, super::pictures(Some(&run), Some(&soak)), "the same bytes");
}
