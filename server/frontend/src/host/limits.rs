//! Room 1, front end: what a connection may cost, each limit with the reason of its value.

use std::time::Duration;

/// Limits of one port's connections.
#[derive(Clone, Debug)]
pub struct HostLimits {
    /// Connections open at once; one more is closed at once. 4,096 needs 4,096 of the usual 65,536 descriptors.
    pub connections_max: usize,
    /// HTTP/2 requests open at once on one connection. Load generators and proxies put hundreds of requests on one
    /// connection; hyper's 200 would make them queue on the client's side, where no deadline and no count sees them.
    pub concurrent_streams_max: u32,
    /// Streams reset by the client before they were taken up (the "rapid reset" attack). A client with
    /// `concurrent_streams_max` requests may rightly cancel them all at once; more ends the connection.
    pub pending_accept_reset_streams_max: usize,
    /// Streams reset by us for protocol errors of the client; more ends the connection.
    pub local_error_reset_streams_max: usize,
    /// HTTP/2 window of one stream, in bytes. 1 MiB keeps a 10 Gbit/s path of 1 ms round trip full.
    pub stream_window_bytes: u32,
    /// HTTP/2 window of one connection, in bytes: the most a connection can have us hold that nobody has read yet.
    pub connection_window_bytes: u32,
    /// Largest HTTP/2 frame taken, in bytes. Larger frames mean fewer of them for large tensors.
    pub frame_bytes_max: u32,
    /// Largest head of a request, in bytes, all names and values together.
    pub header_list_bytes_max: u32,
    /// Bytes of answers that wait in one HTTP/2 stream's send buffer before its body is asked for more.
    pub send_buffer_bytes_max: usize,
    /// Bytes of HTTP/1 head or body held before they are parsed.
    pub http1_buffer_bytes_max: usize,
    /// HTTP/2 ping to a silent client this often.
    pub keep_alive_interval: Duration,
    /// A client that does not answer a ping for so long is gone.
    pub keep_alive_timeout: Duration,
    /// A connection is asked to go (GOAWAY, or `Connection: close`) at this age, so that balancers that choose by
    /// connection get a new choice. `None`: never.
    pub connection_age_max: Option<Duration>,
    /// After it was asked for its age, a connection is cut after this.
    pub connection_age_grace: Duration,
    /// At shutdown, a connection is cut after this.
    pub shutdown_grace: Duration,
    /// A new connection says what it speaks, and an HTTP/1 client completes a request's head (or comes with the next
    /// request), within this. Above the 60 s idle limit of common proxies, so that they close first.
    pub head_timeout: Duration,
    /// A client that reads nothing for so long while answers wait for it is cut.
    pub write_stall_timeout: Duration,
    /// Slowest average at which an HTTP/2 answer may be read, in bytes per second, on top of that time; a slower one is
    /// dropped alone, its connection goes on. Below the slowest modem, so that only a client that stands still is meant.
    pub answer_bytes_per_second_min: u64,
}

impl Default for HostLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            concurrent_streams_max: 1024,
            pending_accept_reset_streams_max: 1024,
            local_error_reset_streams_max: 1024,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 8 << 20,
            frame_bytes_max: 64 << 10,
            header_list_bytes_max: 16 << 10,
            send_buffer_bytes_max: 1 << 20,
            http1_buffer_bytes_max: 256 << 10,
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
            connection_age_max: Some(Duration::from_secs(3600)),
            connection_age_grace: Duration::from_secs(300),
            shutdown_grace: Duration::from_secs(5),
            head_timeout: Duration::from_secs(75),
            write_stall_timeout: Duration::from_secs(30),
            answer_bytes_per_second_min: 16 << 10,
        }
    }
}
