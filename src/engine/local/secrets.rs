//! Secrets of a machine: `$JUPYTERFLOW_SECRETS/SECRET/KEY`, files that only their owner may read.
//!
//! Owns the look-up and its refusals. A value goes into a step's environment and nowhere else.

#![expect(clippy::disallowed_methods, reason = "reads secrets")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::spec::{Pipeline, SecretKey};

/// The first secret of a pipeline that cannot be read, in words; none where all can.
pub fn missing(pipeline: &Pipeline) -> Option<String> {
    let mut wanted = pipeline.steps().iter().flat_map(|step| step.secrets().values());
    wanted.find_map(|secret| locate(secret).err())
}

/// A secret's value, without the line end that editors leave.
///
/// # Errors
/// `MissingSecret` and what a person must do.
pub fn read(secret: &SecretKey) -> Result<String, String> {
    let path = locate(secret)?;
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("MissingSecret: failed to read {}: {error}", path.display()))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

fn locate(secret: &SecretKey) -> Result<PathBuf, String> {
    let SecretKey { secret, key } = secret;
    if [secret, key].iter().any(|part| part.contains('/') || part.starts_with('.')) {
        return Err(format!("MissingSecret: {secret}/{key} is no name of a secret"));
    }
    let folder = std::env::var_os("JUPYTERFLOW_SECRETS").ok_or_else(|| {
        format!(
            "MissingSecret: secret {secret}, key {key}: set $JUPYTERFLOW_SECRETS to the folder \
             that holds {secret}/{key}"
        )
    })?;
    let path = Path::new(&folder).join(secret).join(key);
    let shown = path.display();
    let metadata = std::fs::metadata(&path)
        .map_err(|error| format!("MissingSecret: failed to read {shown}: {error}"))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("MissingSecret: {shown} may be read by others: chmod 0600 it"));
    }
    Ok(path)
}
