//! Where the processes keep their files.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

/// A directory for the owner alone, since it has private keys. It is removed at the end, unless it is to be
/// kept.
pub(crate) struct Directory {
    path: PathBuf,
    is_kept: bool,
}

impl Directory {
    /// Makes this directory, which is kept, or one for temporary files, which is not.
    pub(crate) fn make(kept: Option<&Path>) -> io::Result<Self> {
        let temporary = || env::temp_dir().join(format!("palyra-fleet-{}", process::id()));
        let path = kept.map_or_else(temporary, Path::to_owned);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot make {}: {error}", path.display()))
        })?;
        // The processes get the path as an argument.
        let path = path.canonicalize()?;
        Ok(Self { path, is_kept: kept.is_some() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_kept {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}
