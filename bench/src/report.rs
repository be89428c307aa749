//! Owns the way from the files of results to the page and its pictures, in a checkout of the
//! repository. Refuses what stands outside the markers: people write that.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::picture::{Picture, pictures};
use crate::record::Records;
use crate::table::section;

const RUN: &str = "bench/results/run.jsonl";
const SOAK: &str = "bench/results/soak.jsonl";
const PAGE: &str = "docs/performance.md";
const PICTURES: &str = "docs/performance";
const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// What the results of a checkout say.
#[derive(Debug)]
pub struct Report {
    root: PathBuf,
    page: String,
    pictures: Vec<Picture>,
}

impl Report {
    pub fn of(root: &Path) -> anyhow::Result<Self> {
        let run = results(&root.join(RUN))?;
        let soak = results(&root.join(SOAK))?;
        let path = root.join(PAGE);
        let page = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let pictures = pictures(run.as_ref(), soak.as_ref());
        let section = section(run.as_ref(), soak.as_ref(), &pictures);
        let page = with_section(&page, &section).with_context(|| path.display().to_string())?;
        Ok(Self { root: root.to_owned(), page, pictures })
    }

    /// Writes the page and its pictures, and removes a picture that nothing is known for.
    pub fn write(&self) -> anyhow::Result<()> {
        let folder = self.root.join(PICTURES);
        fs::create_dir_all(&folder)?;
        for stale in self.stale()? {
            fs::remove_file(stale)?;
        }
        for picture in &self.pictures {
            fs::write(folder.join(picture.name), &picture.svg)?;
        }
        Ok(fs::write(self.root.join(PAGE), &self.page)?)
    }

    /// The files that are not what the results say.
    pub fn differences(&self) -> anyhow::Result<Vec<PathBuf>> {
        let folder = self.root.join(PICTURES);
        let pictures = self.pictures.iter().map(|one| (folder.join(one.name), &one.svg));
        let wanted = pictures.chain([(self.root.join(PAGE), &self.page)]);
        let differs =
            |path: &Path, text: &str| fs::read_to_string(path).ok().as_deref() != Some(text);
        let mut different = self.stale()?;
        different.extend(wanted.filter(|(path, text)| differs(path, text)).map(|(path, _)| path));
        Ok(different)
    }

    fn stale(&self) -> anyhow::Result<Vec<PathBuf>> {
        let folder = self.root.join(PICTURES);
        if !folder.exists() {
            return Ok(vec![]);
        }
        let paths: Result<Vec<_>, _> =
            fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect();
        let is_known = |path: &PathBuf| self.pictures.iter().any(|one| path.ends_with(one.name));
        Ok(paths?.into_iter().filter(|path| !is_known(path)).collect())
    }
}

/// None before the first run.
fn results(path: &Path) -> anyhow::Result<Option<Records>> {
    path.exists().then(|| Records::read(path)).transpose()
}

fn with_section(page: &str, section: &str) -> anyhow::Result<String> {
    let (before, rest) = page.split_once(BEGIN).context("the page has no beginning of figures")?;
    let (_, after) = rest.split_once(END).context("the page has no end of figures")?;
    Ok(format!("{before}{BEGIN}\n{section}\n{END}{after}"))
}

#[cfg(test)]
mod tests;
