//! What a fleet and the agent of an instance say to each other, and how.
//!
//! Each message is its length (32 bits, little endian) and JSON: a few a second, and what environments write to their logs.
//! Requests go over the links of environments, which are connections of their own. Called by both sides; does nothing by itself.

use crate::contents::Lay;
use crate::transport::Address;
use penstock_domain::Variables;
use penstock_scaler::Shape;
use penstock_trust::Issued;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Most bytes of a message: a piece of a log in base64, or the variables of an environment.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// What the instances of an order are told, each by its provider: on standard input, or in a file that only it can read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// What its provider calls it; `None` where it has to ask the machine that it is on.
    pub name: Option<String>,
    /// Lets it join, once for each name; and whoever says it to the agent may begin environments.
    pub token: String,
    /// Where the fleet listens.
    pub fleet: Address,
    /// Who signs the fleet's certificate, as PEM; `None` where there are none.
    pub trust: Option<String>,
    /// Where it is to listen itself: a folder for its socket, or an address.
    pub listen: Address,
    /// Below it, it keeps what it is sent, and it must not be full; `None` where the fleet's disk is its own.
    pub disk: Option<PathBuf>,
    /// The control group that it is to enter, if it has one.
    pub group: Option<PathBuf>,
}

/// The first message of an agent that has no certificate yet, over TCP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Enrol {
    pub(crate) name: String,
    pub(crate) token: String,
    /// Its key's public half, as PEM.
    pub(crate) public_key: String,
}

/// The first message of an agent that may speak: on one machine because of its token, else because of its certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) machine: Machine,
    /// Where environments are begun.
    pub(crate) address: Address,
}

/// What an agent says of its machine, once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) pid: u32,
    /// Its environments together have no more memory than it.
    pub(crate) is_limited: bool,
    /// Those that environments may have.
    #[serde(default)]
    pub(crate) devices: Vec<Device>,
    #[serde(default)]
    pub(crate) access: DeviceAccess,
}

/// A device: a GPU, or a slice of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    /// What `CUDA_VISIBLE_DEVICES` takes.
    pub(crate) uuid: String,
    /// As sold.
    pub(crate) name: String,
    /// In all.
    pub(crate) memory_mib: u64,
    /// Of that, what no environment gets.
    pub(crate) kept_mib: u64,
}

impl Device {
    pub(crate) fn for_environments_mib(&self) -> u64 {
        self.memory_mib.saturating_sub(self.kept_mib)
    }
}

/// What environments on the devices of a machine touch there beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAccess {
    /// Device files that they read and write.
    pub device_files: Vec<PathBuf>,
    /// What else they read.
    pub readable: Vec<PathBuf>,
    /// Folders of the devices' libraries, where the system's loader does not find them.
    pub library_path: Vec<PathBuf>,
}

/// What an agent says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum FromAgent {
    Enrol(Enrol),
    Join(Join),
    Beat(Beat),
    /// A piece of what an environment wrote to its standard error, in base64.
    Log {
        environment: u64,
        piece: String,
    },
    /// An environment has ended, or was not begun.
    Ended {
        environment: u64,
        status: String,
    },
    /// It wants a certificate for this key (PEM): what it has is half as old as it may become.
    Renew {
        public_key: String,
    },
}

/// That it lives, and how it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// Environments that run.
    pub environments: u32,
    /// Memory of the machine that is free, in MiB.
    pub memory_free_mib: u64,
    /// Runnable processes of the machine, on average over a minute.
    pub load: f64,
    /// Why it should not be used any more.
    pub unhealthy: Option<String>,
    /// It will be taken away: what it has is to be elsewhere before that.
    #[serde(default)]
    pub is_taken_away: bool,
    /// How its devices are.
    #[serde(default)]
    pub devices: Vec<DeviceBeat>,
}

/// How a device is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceBeat {
    pub uuid: String,
    /// Memory that is in use, by whomever; `None` if it does not tell.
    pub memory_used_mib: Option<u64>,
    /// Parts of a hundred of the time in which a kernel ran; `None` if it does not tell.
    #[serde(default)]
    pub busy_percent: Option<u32>,
    /// Why nobody else is to run there.
    pub fault: Option<String>,
}

/// What an agent is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ToAgent {
    /// Its certificate.
    Enrolled(Issued),
    /// It has joined, and this is what it may use of its machine.
    Welcome { shape: Shape },
    /// Its new certificate.
    Renewed(Issued),
    /// Others are to be believed from now on: it should renew its certificate.
    Renew,
    /// An environment is to end: by itself within this time, or else it is killed.
    End { environment: u64, patience_ms: u64 },
    /// The instance is not needed any more.
    Stop,
}

/// What a fleet says on a connection that is to be the link of an environment: first what is to lie there, if the instance has
/// a disk of its own, then the environment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum FromFleet {
    Lay(Lay),
    Begin(Begin),
}

/// An environment that is to begin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    /// That of [`Told`]: environments may connect here, too.
    pub(crate) token: String,
    pub(crate) environment: u64,
    pub(crate) variables: Variables,
    /// It needs the executable for GPUs.
    pub(crate) accelerated: bool,
    pub(crate) vcpu: u32,
    pub(crate) memory_mib: u64,
}

pub(crate) async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    let json = serde_json::to_vec(message).map_err(io::Error::other)?;
    let bytes = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut framed = bytes.to_le_bytes().to_vec();
    framed.extend(json);
    to.write_all(&framed).await?;
    to.flush().await
}

/// The next message; what follows it stays where it is.
pub(crate) async fn read<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let bytes = from.read_u32_le().await? as usize;
    if bytes > MESSAGE_BYTES_MAX {
        let text = format!("a message of {bytes} bytes; at most {MESSAGE_BYTES_MAX} are read");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut json = vec![0; bytes];
    from.read_exact(&mut json).await?;
    serde_json::from_slice(&json).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
