//! librdkafka, as far as it is needed here: the very library that confluent-kafka brings, called without the
//! interpreter. Its functions are bound when it is loaded, so that it need not be there when this is built.
//!
//! All that is unsafe is in this file. What it relies on is told by librdkafka's header, `rdkafka.h`, of version 2: its
//! functions may be called from any thread, and neither they nor the structure of a message change within a major
//! version.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libloading::Library;

type Ptr = *mut c_void;

const PRODUCER: c_int = 0;
const CONSUMER: c_int = 1;
const COPY: c_int = 2;
const REASON_BYTES: usize = 512;

const INVALID_ARG: c_int = -186;
const QUEUE_FULL: c_int = -184;

// What `rd_kafka_producev` is given, and its end.
const V_END: c_int = 0;
const V_TOPIC: c_int = 1;
const V_PARTITION: c_int = 3;
const V_VALUE: c_int = 4;
const V_KEY: c_int = 5;
const V_OPAQUE: c_int = 6;
const V_MSGFLAGS: c_int = 7;
const V_HEADERS: c_int = 10;

/// `rd_kafka_message_t`.
#[repr(C)]
struct RawMessage {
    error: c_int,
    topic: Ptr,
    partition: i32,
    value: Ptr,
    value_len: usize,
    key: Ptr,
    key_len: usize,
    offset: i64,
    opaque: Ptr,
}

type OnDelivery = unsafe extern "C" fn(Ptr, *const RawMessage, Ptr);
type OnError = unsafe extern "C" fn(Ptr, c_int, *const c_char, Ptr);

macro_rules! functions {
    ($($name:ident: $kind:ty;)*) => {
        struct Functions { $($name: $kind,)* _library: Library }

        impl Functions {
            unsafe fn load(path: &Path) -> Result<Self, libloading::Error> {
                let library = Library::new(path)?;
                Ok(Functions {
                    $($name: *library.get(concat!("rd_kafka_", stringify!($name)).as_bytes())?,)*
                    _library: library,
                })
            }
        }
    };
}

functions! {
    conf_new: unsafe extern "C" fn() -> Ptr;
    conf_destroy: unsafe extern "C" fn(Ptr);
    conf_set: unsafe extern "C" fn(Ptr, *const c_char, *const c_char, *mut c_char, usize) -> c_int;
    conf_set_opaque: unsafe extern "C" fn(Ptr, Ptr);
    conf_set_log_cb: unsafe extern "C" fn(Ptr, Ptr);
    conf_set_dr_msg_cb: unsafe extern "C" fn(Ptr, OnDelivery);
    conf_set_error_cb: unsafe extern "C" fn(Ptr, OnError);
    new: unsafe extern "C" fn(c_int, Ptr, *mut c_char, usize) -> Ptr;
    destroy: unsafe extern "C" fn(Ptr);
    err2str: unsafe extern "C" fn(c_int) -> *const c_char;
    last_error: unsafe extern "C" fn() -> c_int;

    error_code: unsafe extern "C" fn(Ptr) -> c_int;
    error_string: unsafe extern "C" fn(Ptr) -> *const c_char;
    error_is_fatal: unsafe extern "C" fn(Ptr) -> c_int;
    error_is_retriable: unsafe extern "C" fn(Ptr) -> c_int;
    error_txn_requires_abort: unsafe extern "C" fn(Ptr) -> c_int;
    error_destroy: unsafe extern "C" fn(Ptr);

    init_transactions: unsafe extern "C" fn(Ptr, c_int) -> Ptr;
    begin_transaction: unsafe extern "C" fn(Ptr) -> Ptr;
    commit_transaction: unsafe extern "C" fn(Ptr, c_int) -> Ptr;
    abort_transaction: unsafe extern "C" fn(Ptr, c_int) -> Ptr;
    topic_new: unsafe extern "C" fn(Ptr, *const c_char, Ptr) -> Ptr;
    topic_destroy: unsafe extern "C" fn(Ptr);
    topic_name: unsafe extern "C" fn(Ptr) -> *const c_char;
    produce_batch: unsafe extern "C" fn(Ptr, i32, c_int, *mut RawMessage, c_int) -> c_int;
    producev: unsafe extern "C" fn(Ptr, ...) -> c_int;
    headers_new: unsafe extern "C" fn(usize) -> Ptr;
    header_add: unsafe extern "C" fn(Ptr, *const c_char, isize, *const c_void, isize) -> c_int;
    headers_destroy: unsafe extern "C" fn(Ptr);
    flush: unsafe extern "C" fn(Ptr, c_int) -> c_int;
    outq_len: unsafe extern "C" fn(Ptr) -> c_int;

    poll_set_consumer: unsafe extern "C" fn(Ptr) -> c_int;
    queue_get_consumer: unsafe extern "C" fn(Ptr) -> Ptr;
    queue_destroy: unsafe extern "C" fn(Ptr);
    topic_partition_list_new: unsafe extern "C" fn(c_int) -> Ptr;
    topic_partition_list_add: unsafe extern "C" fn(Ptr, *const c_char, i32) -> Ptr;
    topic_partition_list_set_offset: unsafe extern "C" fn(Ptr, *const c_char, i32, i64) -> c_int;
    topic_partition_list_destroy: unsafe extern "C" fn(Ptr);
    assign: unsafe extern "C" fn(Ptr, Ptr) -> c_int;
    consume_batch_queue: unsafe extern "C" fn(Ptr, c_int, *mut *mut RawMessage, usize) -> isize;
    consumer_close: unsafe extern "C" fn(Ptr) -> c_int;
    message_destroy: unsafe extern "C" fn(*mut RawMessage);
    message_errstr: unsafe extern "C" fn(*const RawMessage) -> *const c_char;
    message_timestamp: unsafe extern "C" fn(*const RawMessage, *mut c_int) -> i64;
    message_headers: unsafe extern "C" fn(*const RawMessage, *mut Ptr) -> c_int;
    header_get_all: unsafe extern "C" fn(Ptr, usize, *mut *const c_char, *mut *const c_void, *mut usize) -> c_int;
    query_watermark_offsets: unsafe extern "C" fn(Ptr, *const c_char, i32, *mut i64, *mut i64, c_int) -> c_int;
    get_watermark_offsets: unsafe extern "C" fn(Ptr, *const c_char, i32, *mut i64, *mut i64) -> c_int;
    metadata: unsafe extern "C" fn(Ptr, c_int, Ptr, *mut Ptr, c_int) -> c_int;
    metadata_destroy: unsafe extern "C" fn(Ptr);
}

/// The library, loaded.
#[derive(Clone)]
pub struct Librdkafka(Arc<Functions>);

/// What `confluent_kafka.KafkaError` holds.
#[derive(Debug)]
pub struct Failure {
    pub code: i32,
    pub reason: String,
    pub fatal: bool,
    pub retriable: bool,
    pub requires_abort: bool,
}

impl Failure {
    fn new(code: c_int, reason: String) -> Self {
        Failure { code, reason, fatal: false, retriable: false, requires_abort: false }
    }
}

pub type Config = Vec<(String, String)>;
pub type HeaderBytes = (Vec<u8>, Option<Vec<u8>>);

impl Librdkafka {
    /// Load the library of that path; mostly it is there already.
    pub fn load(path: &Path) -> Result<Self, String> {
        // Safety: it is told to be librdkafka. The functions are what its header declares.
        unsafe { Functions::load(path) }.map(|functions| Librdkafka(Arc::new(functions))).map_err(|it| it.to_string())
    }

    fn failure(&self, code: c_int) -> Failure {
        // Safety: a static text, for whatever number.
        Failure::new(code, text(unsafe { (self.0.err2str)(code) }))
    }

    fn checked(&self, code: c_int) -> Result<(), Failure> {
        if code == 0 {
            Ok(())
        } else {
            Err(self.failure(code))
        }
    }

    fn config(&self, options: &Config) -> Result<Ptr, Failure> {
        let options = options
            .iter()
            .map(|(name, value)| Ok((terminated(name)?, terminated(value)?)))
            .collect::<Result<Vec<_>, Failure>>()?;
        // Safety: the texts live as long as the calls; on an error the configuration is given back.
        unsafe {
            let config = (self.0.conf_new)();
            (self.0.conf_set_log_cb)(config, null_mut());
            let mut reason = [0 as c_char; REASON_BYTES];
            for (name, value) in &options {
                if (self.0.conf_set)(config, name.as_ptr(), value.as_ptr(), reason.as_mut_ptr(), REASON_BYTES) != 0 {
                    (self.0.conf_destroy)(config);
                    return Err(Failure::new(INVALID_ARG, text(reason.as_ptr())));
                }
            }
            Ok(config)
        }
    }
}

/// What librdkafka tells in the midst of other calls.
struct Heard {
    /// Where the last record stands that was acknowledged, of those that were to tell.
    offset: AtomicI64,
    errors: Mutex<Vec<Failure>>,
}

/// A client, of either kind.
struct Client {
    library: Librdkafka,
    handle: Ptr,
    /// librdkafka holds a pointer to it.
    heard: Arc<Heard>,
}

// Safety: librdkafka's clients are made for many threads.
unsafe impl Send for Client {}
unsafe impl Sync for Client {}

impl Client {
    fn new(library: Librdkafka, kind: c_int, options: &Config) -> Result<Self, Failure> {
        let heard = Arc::new(Heard { offset: AtomicI64::new(-1), errors: Mutex::default() });
        let config = library.config(options)?;
        let mut reason = [0 as c_char; REASON_BYTES];
        // Safety: what the callbacks are given, `heard`, is dropped after the client. A client that was made owns its
        // configuration.
        let handle = unsafe {
            (library.0.conf_set_opaque)(config, Arc::as_ptr(&heard) as Ptr);
            (library.0.conf_set_error_cb)(config, on_error);
            if kind == PRODUCER {
                (library.0.conf_set_dr_msg_cb)(config, on_delivery);
            }
            let handle = (library.0.new)(kind, config, reason.as_mut_ptr(), REASON_BYTES);
            if handle.is_null() {
                (library.0.conf_destroy)(config);
                return Err(Failure::new(INVALID_ARG, text(reason.as_ptr())));
            }
            handle
        };
        Ok(Client { library, handle, heard })
    }

    fn functions(&self) -> &Functions {
        &self.library.0
    }

    fn topic(&self, name: &str) -> Result<Topic<'_>, Failure> {
        let name = terminated(name)?;
        // Safety: the name is copied.
        let handle = unsafe { (self.functions().topic_new)(self.handle, name.as_ptr(), null_mut()) };
        if handle.is_null() {
            // Safety: a number.
            return Err(self.library.failure(unsafe { (self.functions().last_error)() }));
        }
        Ok(Topic { client: self, handle })
    }
}

/// A topic, as a client names it.
struct Topic<'a> {
    client: &'a Client,
    handle: Ptr,
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        // Safety: nobody has it any more.
        unsafe { (self.client.functions().topic_destroy)(self.handle) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Safety: nobody has it any more. This waits for its threads.
        unsafe { (self.functions().destroy)(self.handle) }
    }
}

unsafe extern "C" fn on_delivery(_: Ptr, message: *const RawMessage, heard: Ptr) {
    let (message, heard) = (&*message, &*(heard as *const Heard));
    if message.error == 0 && !message.opaque.is_null() {
        heard.offset.store(message.offset, Ordering::Release);
    }
}

unsafe extern "C" fn on_error(_: Ptr, code: c_int, reason: *const c_char, heard: Ptr) {
    let heard = &*(heard as *const Heard);
    let mut errors = heard.errors.lock().unwrap_or_else(PoisonError::into_inner);
    // Whoever wants to know asks often. A producer does not: what matters comes back from its calls.
    errors.truncate(15);
    errors.push(Failure::new(code, text(reason)));
}

/// A key or a value.
pub type Bytes<'a> = Option<&'a [u8]>;

pub struct Producer(Client);

impl Producer {
    pub fn new(library: Librdkafka, options: &Config) -> Result<Self, Failure> {
        Client::new(library, PRODUCER, options).map(Producer)
    }

    pub fn init_transactions(&self, timeout: Duration) -> Result<(), Failure> {
        // Safety: as of the three below, the client is there.
        self.told(unsafe { (self.0.functions().init_transactions)(self.0.handle, ms(timeout)) })
    }

    pub fn begin_transaction(&self) -> Result<(), Failure> {
        self.told(unsafe { (self.0.functions().begin_transaction)(self.0.handle) })
    }

    pub fn commit_transaction(&self, timeout: Duration) -> Result<(), Failure> {
        self.told(unsafe { (self.0.functions().commit_transaction)(self.0.handle, ms(timeout)) })
    }

    pub fn abort_transaction(&self, timeout: Duration) -> Result<(), Failure> {
        self.told(unsafe { (self.0.functions().abort_transaction)(self.0.handle, ms(timeout)) })
    }

    fn told(&self, error: Ptr) -> Result<(), Failure> {
        if error.is_null() {
            return Ok(());
        }
        let of = self.0.functions();
        // Safety: the error is ours, and given back once it has been read.
        unsafe {
            let failure = Failure {
                code: (of.error_code)(error),
                reason: text((of.error_string)(error)),
                fatal: (of.error_is_fatal)(error) != 0,
                retriable: (of.error_is_retriable)(error) != 0,
                requires_abort: (of.error_txn_requires_abort)(error) != 0,
            };
            (of.error_destroy)(error);
            Err(failure)
        }
    }

    /// Hand over pairs of key and value; return the indexes of those that did not fit into the queue.
    pub fn produce_all<'a>(
        &self,
        topic: &str,
        partition: i32,
        pairs: impl Iterator<Item = (Bytes<'a>, Bytes<'a>)>,
    ) -> Result<Vec<usize>, Failure> {
        let mut messages: Vec<RawMessage> = pairs.map(|(key, value)| to_send(key, value)).collect();
        let count = c_int::try_from(messages.len()).map_err(|_| Failure::new(INVALID_ARG, "too many".to_owned()))?;
        let topic = self.0.topic(topic)?;
        // Safety: librdkafka copies what it is given, and marks what it did not take.
        unsafe { (self.0.functions().produce_batch)(topic.handle, partition, COPY, messages.as_mut_ptr(), count) };
        match messages.iter().find(|message| !matches!(message.error, 0 | QUEUE_FULL)) {
            Some(failed) => Err(self.0.library.failure(failed.error)),
            None => Ok((0..messages.len()).filter(|&index| messages[index].error != 0).collect()),
        }
    }

    /// Hand over a record; return whether it fitted into the queue.
    pub fn produce(
        &self,
        topic: &str,
        partition: i32,
        (key, value): (Bytes<'_>, Bytes<'_>),
        headers: &[(&str, Bytes<'_>)],
        tell_offset: bool,
    ) -> Result<bool, Failure> {
        let (of, topic) = (self.0.functions(), terminated(topic)?);
        let message = to_send(key, value);
        let told: Ptr = if tell_offset { 1 as Ptr } else { null_mut() };
        // Safety: librdkafka copies what it is given; the headers are its own once it has taken the record.
        let code = unsafe {
            let all = (of.headers_new)(headers.len());
            for (name, value) in headers {
                let (data, length) = value.map_or((null(), -1), |it| (it.as_ptr().cast(), it.len() as isize));
                (of.header_add)(all, name.as_ptr().cast(), name.len() as isize, data, length);
            }
            let code = (of.producev)(
                self.0.handle,
                V_TOPIC,
                topic.as_ptr(),
                V_PARTITION,
                partition,
                V_MSGFLAGS,
                COPY,
                V_KEY,
                message.key,
                message.key_len,
                V_VALUE,
                message.value,
                message.value_len,
                V_OPAQUE,
                told,
                V_HEADERS,
                all,
                V_END,
            );
            if code != 0 {
                (of.headers_destroy)(all);
            }
            code
        };
        match code {
            QUEUE_FULL => Ok(false),
            code => self.0.library.checked(code).map(|()| true),
        }
    }

    /// Wait until everything is acknowledged, or given up; return how many records are neither when the time is over.
    pub fn flush(&self, timeout: Duration) -> usize {
        // Safety: the client is there. That the time is over is told by what is left.
        unsafe {
            (self.0.functions().flush)(self.0.handle, ms(timeout));
            (self.0.functions().outq_len)(self.0.handle).unsigned_abs() as usize
        }
    }

    pub fn offset(&self) -> i64 {
        self.0.heard.offset.load(Ordering::Acquire)
    }
}

fn to_send(key: Bytes<'_>, value: Bytes<'_>) -> RawMessage {
    let raw = |bytes: Bytes<'_>| bytes.map_or((null_mut(), 0), |it| (it.as_ptr() as Ptr, it.len()));
    let ((key, key_len), (value, value_len)) = (raw(key), raw(value));
    RawMessage {
        error: 0,
        topic: null_mut(),
        partition: 0,
        value,
        value_len,
        key,
        key_len,
        offset: 0,
        opaque: null_mut(),
    }
}

/// A record, or something that is told in its place, while librdkafka has it.
pub struct Fetched<'a> {
    library: &'a Librdkafka,
    raw: &'a RawMessage,
}

impl<'a> Fetched<'a> {
    /// What is told in a record's place.
    pub fn error(&self) -> Option<Failure> {
        // Safety: the text lives as long as the message.
        let reason = || text(unsafe { (self.library.0.message_errstr)(self.raw) });
        (self.raw.error != 0).then(|| Failure::new(self.raw.error, reason()))
    }

    pub fn topic(&self) -> &'a [u8] {
        if self.raw.topic.is_null() {
            return b"";
        }
        // Safety: the name lives as long as the topic does, and that as long as the message.
        unsafe { CStr::from_ptr((self.library.0.topic_name)(self.raw.topic)) }.to_bytes()
    }

    pub fn offset(&self) -> i64 {
        self.raw.offset
    }

    pub fn key(&self) -> Bytes<'a> {
        bytes(self.raw.key, self.raw.key_len)
    }

    pub fn value(&self) -> Bytes<'a> {
        bytes(self.raw.value, self.raw.value_len)
    }

    /// Its type, and ms since the epoch.
    pub fn timestamp(&self) -> (i32, i64) {
        let mut kind = 0;
        // Safety: the message is there.
        let at = unsafe { (self.library.0.message_timestamp)(self.raw, &mut kind) };
        (kind, at)
    }

    pub fn headers(&self) -> Vec<HeaderBytes> {
        let mut headers = null_mut();
        let mut found = Vec::new();
        // Safety: name and value live as long as the message, and are copied.
        unsafe {
            if (self.library.0.message_headers)(self.raw, &mut headers) != 0 {
                return found;
            }
            let (mut name, mut value, mut length) = (null(), null(), 0);
            while (self.library.0.header_get_all)(headers, found.len(), &mut name, &mut value, &mut length) == 0 {
                let value = bytes(value as Ptr, length).map(<[u8]>::to_vec);
                found.push((CStr::from_ptr(name).to_bytes().to_vec(), value));
            }
        }
        found
    }
}

pub struct Consumer {
    client: Client,
    queue: Ptr,
}

// Safety: as of the client; the queue is its own.
unsafe impl Send for Consumer {}
unsafe impl Sync for Consumer {}

impl Consumer {
    pub fn new(library: Librdkafka, options: &Config) -> Result<Self, Failure> {
        let client = Client::new(library, CONSUMER, options)?;
        // Safety: the queue is given back before the client.
        let queue = unsafe {
            client.library.checked((client.functions().poll_set_consumer)(client.handle))?;
            (client.functions().queue_get_consumer)(client.handle)
        };
        Ok(Consumer { client, queue })
    }

    /// Read these topics, from these offsets on.
    pub fn assign(&self, partition: i32, offsets: &[(String, i64)]) -> Result<(), Failure> {
        let topics = offsets.iter().map(|(topic, _)| terminated(topic)).collect::<Result<Vec<_>, _>>()?;
        let of = self.client.functions();
        // Safety: the list is copied, and given back.
        unsafe {
            let list = (of.topic_partition_list_new)(topics.len() as c_int);
            for (topic, (_, offset)) in topics.iter().zip(offsets) {
                (of.topic_partition_list_add)(list, topic.as_ptr(), partition);
                (of.topic_partition_list_set_offset)(list, topic.as_ptr(), partition, *offset);
            }
            let code = (of.assign)(self.client.handle, list);
            (of.topic_partition_list_destroy)(list);
            self.client.library.checked(code)
        }
    }

    /// Wait until `limit` messages are there, or the time is over, and let `look` see what there is.
    pub fn consume(&self, limit: usize, timeout: Duration, mut look: impl FnMut(Fetched<'_>)) -> Result<(), Failure> {
        let of = self.client.functions();
        let mut messages: Vec<*mut RawMessage> = vec![null_mut(); limit];
        // Safety: there is room for as many; each is looked at before it is given back, and nobody keeps it.
        unsafe {
            let count = (of.consume_batch_queue)(self.queue, ms(timeout), messages.as_mut_ptr(), limit);
            let Ok(count) = usize::try_from(count) else {
                return Err(self.client.library.failure((of.last_error)()));
            };
            for &message in &messages[..count] {
                look(Fetched { library: &self.client.library, raw: &*message });
                (of.message_destroy)(message);
            }
        }
        Ok(())
    }

    /// Where a topic begins and ends: asked of the broker, given a timeout; else as the last answer told.
    pub fn watermarks(&self, topic: &str, partition: i32, timeout: Option<Duration>) -> Result<(i64, i64), Failure> {
        let (of, topic) = (self.client.functions(), terminated(topic)?);
        let (mut low, mut high) = (-1, -1);
        // Safety: two numbers are written.
        let code = unsafe {
            match timeout {
                Some(timeout) => (of.query_watermark_offsets)(
                    self.client.handle,
                    topic.as_ptr(),
                    partition,
                    &mut low,
                    &mut high,
                    ms(timeout),
                ),
                None => (of.get_watermark_offsets)(self.client.handle, topic.as_ptr(), partition, &mut low, &mut high),
            }
        };
        self.client.library.checked(code).map(|()| (low, high))
    }

    /// Find out who leads a topic.
    pub fn learn_leader(&self, topic: &str, timeout: Duration) -> Result<(), Failure> {
        let (of, topic) = (self.client.functions(), self.client.topic(topic)?);
        // Safety: what was asked for is given back unread; librdkafka has noted it.
        unsafe {
            let mut answer = null_mut();
            let code = (of.metadata)(self.client.handle, 0, topic.handle, &mut answer, ms(timeout));
            self.client.library.checked(code)?;
            (of.metadata_destroy)(answer);
        }
        Ok(())
    }

    /// The errors that were told of no record, since they were last taken.
    pub fn take_errors(&self) -> Vec<Failure> {
        std::mem::take(&mut self.client.heard.errors.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Safety: nobody has it any more.
        unsafe {
            (self.client.functions().consumer_close)(self.client.handle);
            (self.client.functions().queue_destroy)(self.queue);
        }
    }
}

fn bytes<'a>(data: Ptr, length: usize) -> Bytes<'a> {
    // Safety: it is told to be as long, and to live as long as its message.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data as *const u8, length) })
}

fn text(chars: *const c_char) -> String {
    if chars.is_null() {
        return String::new();
    }
    // Safety: it is told to be terminated.
    unsafe { CStr::from_ptr(chars) }.to_string_lossy().into_owned()
}

fn terminated(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::new(INVALID_ARG, "a NUL in a name or a setting".to_owned()))
}

fn ms(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}
