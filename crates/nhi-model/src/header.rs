//! The headers of calls, answers, frames and stored records. It does not parse values.

/// Idempotency id of a call: at most [`ID_CHARS_MAX`] printable ASCII characters. Absent: the service makes one.
pub const ID: &str = "Nhi-Id";
/// When a call is no longer worth doing, RFC 3339. Absent: 30 s after it arrived.
pub const EXPIRES: &str = "Nhi-Expires";
/// Number of a frame, from 1 without a hole; every frame has it, and a plain answer has not.
pub const SEQ: &str = "Nhi-Seq";
/// Marks an empty frame that only says that the stream is alive.
pub const KEEPALIVE: &str = "Nhi-Keepalive";
/// Marks the last frame: [`END_DONE`] or [`END_FAILED`].
pub const END: &str = "Nhi-End";
/// The stream ended as it should.
pub const END_DONE: &str = "done";
/// The stream was cut; the frame carries the fault as a plain answer would.
pub const END_FAILED: &str = "failed";
/// Where in a trace a request belongs: W3C's trace context.
pub const TRACEPARENT: &str = "traceparent";
/// What went wrong, one sentence: the micro service protocol's own header.
pub const ERROR: &str = "Nats-Service-Error";
/// The HTTP-like number of the fault: the micro service protocol's own header.
pub const ERROR_CODE: &str = "Nats-Service-Error-Code";

/// The pass of a request to a machine's relay: `<public key> <unix seconds> <nonce> <signature>`.
pub const RELAY: &str = "Nhi-Relay";
/// The light, on what a machine's relay refuses because of it.
pub const LIGHT: &str = "Nhi-Light";

/// Id of the write, on a delete marker of a bucket: it has no body to carry one.
pub const OP: &str = "Nhi-Op";
/// Commit time, RFC 3339, on a delete marker of a bucket.
pub const AT: &str = "Nhi-At";
/// How many messages an atomic batch has, on each of them: it tells where the batch ends when the message there is
/// no longer kept.
pub const BATCH_COUNT: &str = "Nhi-Batch-Count";

/// Longest idempotency id: a UUID has 36, a plan's step fits.
pub const ID_CHARS_MAX: usize = 128;
