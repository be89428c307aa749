//! Owns the ledger's file and the one thread that writes it. Refuses to answer anything that is
//! not yet on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::books::{Books, Record, Verdict, Wanted};

/// The most entries that share one sync; more than can be waiting at a time.
const BATCH_ENTRIES_MAX: usize = 1_024;
const FILE_NAME: &str = "ledger.jsonl";

enum Question {
    Judge(Box<Wanted>, oneshot::Sender<Verdict>),
    Read(Box<dyn FnOnce(&mut Books) + Send>),
}

/// The ledger's thread has ended, and the process is about to.
#[derive(Debug)]
pub(crate) struct Closed;

/// The way to the books: everything goes through one thread.
#[derive(Clone)]
pub struct Ledger {
    questions: mpsc::Sender<Question>,
}

impl Ledger {
    /// Opens, or makes, the ledger in a folder, and reads back what it says. A torn last line,
    /// which nobody was told about, is cut off; any other line that makes no sense is an error.
    ///
    /// The task ends when the last handle is gone, or with the error that keeps it from writing.
    pub fn open(folder: &Path) -> io::Result<(Self, JoinHandle<io::Result<()>>)> {
        fs::create_dir_all(folder)?;
        let path = folder.join(FILE_NAME);
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        file.try_lock()?;
        File::open(folder)?.sync_all()?;
        let books = read_back(&file)?;
        let (questions, asked) = mpsc::channel(BATCH_ENTRIES_MAX);
        let writer = tokio::task::spawn_blocking(move || write(&file, books, asked));
        Ok((Self { questions }, writer))
    }

    /// The verdict on an entry, once it is on the disk. The entry is made even if nobody waits.
    pub(crate) async fn judge(&self, wanted: Wanted) -> Result<Verdict, Closed> {
        let (answer, verdict) = oneshot::channel();
        let question = Question::Judge(Box::new(wanted), answer);
        self.questions.send(question).await.map_err(|_| Closed)?;
        verdict.await.map_err(|_| Closed)
    }

    /// Reads books of which every line is on the disk.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Books) -> T + Send + 'static,
    ) -> Result<T, Closed> {
        let (answer, seen) = oneshot::channel();
        // Whoever has stopped waiting needs no answer.
        let question = Question::Read(Box::new(move |books| drop(answer.send(look(books)))));
        self.questions.send(question).await.map_err(|_| Closed)?;
        seen.await.map_err(|_| Closed)
    }
}

/// Group commit: whoever is waiting shares one write and one sync.
fn write(file: &File, mut books: Books, mut asked: mpsc::Receiver<Question>) -> io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH_ENTRIES_MAX);
    while asked.blocking_recv_many(&mut batch, BATCH_ENTRIES_MAX) > 0 {
        let (mut lines, mut verdicts, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        for question in batch.drain(..) {
            match question {
                Question::Judge(wanted, answer) => {
                    let verdict = books.judge(*wanted);
                    if let Verdict::Recorded { record, first: true } = &verdict {
                        serde_json::to_writer(&mut lines, record)?;
                        lines.push(b'\n');
                    }
                    verdicts.push((verdict, answer));
                }
                Question::Read(look) => reads.push(look),
            }
        }
        if !lines.is_empty() {
            let mut file = file;
            file.write_all(&lines)?;
            file.sync_data()?;
        }
        for (verdict, answer) in verdicts {
            drop(answer.send(verdict));
        }
        for look in reads {
            look(&mut books);
        }
    }
    Ok(())
}

fn read_back(file: &File) -> io::Result<Books> {
    let mut books = Books::default();
    let mut reader = BufReader::new(file);
    let (mut line, mut whole_bytes, mut number) = (Vec::new(), 0, 0_u64);
    while reader.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        if line.last() != Some(&b'\n') {
            tracing::warn!(line = number, "a torn last line is cut off");
            file.set_len(whole_bytes)?;
            file.sync_data()?;
            break;
        }
        let record: Record = serde_json::from_slice(&line).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("ledger line {number}: {error}"))
        })?;
        books.enter(record);
        whole_bytes += line.len() as u64;
        line.clear();
    }
    Ok(books)
}
