//! Owns the calls into librdkafka's mock cluster that the safe crate has no words for. Refuses to
//! let a pointer out.
#![expect(unsafe_code, reason = "these settings and faults exist only in the C interface")]

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka_sys as ffi;

const BROKERS: i32 = 1;
const BROKER_ID: i32 = 1;
/// The number of a Produce request in Kafka's protocol.
const PRODUCE: i16 = 0;

pub(super) struct Mock {
    cluster: NonNull<ffi::rd_kafka_mock_cluster_t>,
    // The cluster lives inside a client; this one is asked for nothing else.
    _host: BaseProducer,
}

// SAFETY: the cluster has a thread of its own; the calls below that touch it take its lock or send
// it a message, and none of them is bound to the thread that made it.
unsafe impl Send for Mock {}
// SAFETY: as above; every method only reads the pointer.
unsafe impl Sync for Mock {}

impl Mock {
    /// The cluster's thread ends for good when a signal interrupts its wait, so it is made by a
    /// thread that lets none through, and inherits that.
    pub(super) fn start() -> anyhow::Result<Self> {
        let made = std::thread::spawn(|| {
            block_signals();
            Self::make()
        });
        made.join().map_err(|_| anyhow!("making the mock cluster panicked"))?
    }

    fn make() -> anyhow::Result<Self> {
        let host: BaseProducer = ClientConfig::new().create()?;
        // SAFETY: `host` is a live client, and it outlives the cluster: see `Drop`.
        let cluster =
            unsafe { ffi::rd_kafka_mock_cluster_new(host.client().native_ptr(), BROKERS) };
        let cluster = NonNull::new(cluster).context("librdkafka made no mock cluster")?;
        // Without this the first member of a group waits 3 s for others.
        // SAFETY: `cluster` is live.
        unsafe { ffi::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster.as_ptr(), 0) };
        Ok(Self { cluster, _host: host })
    }

    pub(super) fn bootstrap(&self) -> String {
        // SAFETY: `cluster` is live.
        let text = unsafe { ffi::rd_kafka_mock_cluster_bootstraps(self.cluster.as_ptr()) };
        // SAFETY: a NUL-terminated string that the cluster owns and never changes; copied at once.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    pub(super) fn create_topic(&self, name: &str, partitions: i32) -> anyhow::Result<()> {
        let topic = CString::new(name)?;
        // SAFETY: `cluster` is live and copies the name during the call.
        let code = unsafe {
            ffi::rd_kafka_mock_topic_create(
                self.cluster.as_ptr(),
                topic.as_ptr(),
                partitions,
                BROKERS,
            )
        };
        ensure!(
            code == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
            "the mock cluster refuses the topic {name}: {code:?}"
        );
        Ok(())
    }

    /// Tells clients, when they ask where the broker is, to come to this address.
    pub(super) fn advertise(&self, address: SocketAddr) -> anyhow::Result<()> {
        let (cluster, port) = (self.cluster.as_ptr(), i32::from(address.port()));
        let host = CString::new(address.ip().to_string())?;
        // SAFETY: `cluster` is live and copies the host during the call.
        unsafe { ffi::rd_kafka_mock_broker_set_host_port(cluster, BROKER_ID, host.as_ptr(), port) };
        Ok(())
    }

    /// The answers to the next Produce requests.
    pub(super) fn push_produce_errors(&self, errors: &[ffi::rd_kafka_resp_err_t]) {
        let (cluster, count) = (self.cluster.as_ptr(), errors.len());
        // SAFETY: `cluster` is live and copies `count` errors during the call.
        unsafe {
            ffi::rd_kafka_mock_push_request_errors_array(cluster, PRODUCE, count, errors.as_ptr());
        }
    }

    pub(super) fn clear_produce_errors(&self) {
        // SAFETY: `cluster` is live.
        unsafe { ffi::rd_kafka_mock_clear_request_errors(self.cluster.as_ptr(), PRODUCE) };
    }

    /// What clients are told when they ask about a topic.
    pub(super) fn set_topic_error(
        &self,
        name: &str,
        error: ffi::rd_kafka_resp_err_t,
    ) -> anyhow::Result<()> {
        let (cluster, topic) = (self.cluster.as_ptr(), CString::new(name)?);
        // SAFETY: `cluster` is live and copies the name during the call.
        unsafe { ffi::rd_kafka_mock_topic_set_error(cluster, topic.as_ptr(), error) };
        Ok(())
    }

    /// Whether connections are kept and taken.
    pub(super) fn set_up(&self, up: bool) -> anyhow::Result<()> {
        let cluster = self.cluster.as_ptr();
        let code = if up {
            // SAFETY: `cluster` is live.
            unsafe { ffi::rd_kafka_mock_broker_set_up(cluster, BROKER_ID) }
        } else {
            // SAFETY: `cluster` is live.
            unsafe { ffi::rd_kafka_mock_broker_set_down(cluster, BROKER_ID) }
        };
        done(code)
    }

    pub(super) fn set_delay(&self, delay: Duration) -> anyhow::Result<()> {
        let millis = i32::try_from(delay.as_millis())?;
        let cluster = self.cluster.as_ptr();
        // SAFETY: `cluster` is live.
        done(unsafe { ffi::rd_kafka_mock_broker_set_rtt(cluster, BROKER_ID, millis) })
    }
}

fn done(code: ffi::rd_kafka_resp_err_t) -> anyhow::Result<()> {
    ensure!(
        code == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
        "the mock cluster refuses: {code:?}"
    );
    Ok(())
}

/// For the calling thread and those that it makes.
fn block_signals() {
    let mut every = MaybeUninit::uninit();
    // SAFETY: the call writes a whole set to the place that it is given.
    unsafe { libc::sigfillset(every.as_mut_ptr()) };
    // SAFETY: the set was written above, and the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, every.as_ptr(), std::ptr::null_mut()) };
}

impl Drop for Mock {
    fn drop(&mut self) {
        // SAFETY: destroyed once, here, while `_host` is still alive (fields go after this).
        unsafe { ffi::rd_kafka_mock_cluster_destroy(self.cluster.as_ptr()) };
    }
}
