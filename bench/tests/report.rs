//! Holds the committed page to the committed results: nobody edits a figure by hand.

use std::path::Path;

use bench::report::Report;

#[test]
fn the_page_shows_what_the_results_say() {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member lies in the workspace");
    let report = Report::of(root).expect("the results and the page can be read");
    let different = report.differences().expect("the pictures can be listed");
    assert!(different.is_empty(), "`bench report` writes these anew: {different:?}");
}
