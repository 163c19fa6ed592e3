//! The folder of a fleet's sockets: whose it is, and what may be in it.
//!
//! Taken over when a fleet is opened, held as long as it is.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Most bytes of a socket's path, by `sockaddr_un`, its end included.
const SOCKET_PATH_MAX: usize = 108;

/// A folder for sockets, empty, and for nobody else.
pub(super) fn take_over(folder: &Path) -> io::Result<File> {
    let lock = lock(folder)?;
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(folder)?;
    // Who may connect here may have environments started.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    Ok(lock)
}

/// Makes sure that no other server has these instances, and that their sockets can be named.
fn lock(folder: &Path) -> io::Result<File> {
    let longest = folder.join("i-00000000.sock").as_os_str().len();
    if longest >= SOCKET_PATH_MAX {
        let text = format!("the path of {} is too long for sockets: choose a shorter cache_dir", folder.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let path = folder.with_extension("lock");
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let file = File::create(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(error),
        Err(TryLockError::WouldBlock) => {
            let text = format!("another server has the instances of this data_dir ({})", path.display());
            Err(io::Error::new(io::ErrorKind::AddrInUse, text))
        }
    }
}
