//! Notebooks behind URLs: web servers by HTTP, object stores by the crate `object_store`.
//!
//! Owns which schemes are known, where their credentials come from (the environment, as each
//! vendor's own tools read them) and what must not be shown of a URL.

use std::time::Duration;

use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use crate::types::causes;

/// Variables whose names begin so configure an object store.
const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// A web server may take this long to be reached,
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// and to say something.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// A URL that may be shown: without user, password, query and fragment, which carry secrets.
pub fn without_secrets(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        return text.split(['?', '#']).next().unwrap_or_default().to_owned();
    };
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Reads what a URL names.
///
/// # Errors
/// Says what failed.
pub async fn read(text: &str) -> Result<Vec<u8>, String> {
    let shown = without_secrets(text);
    let failed =
        |error: &dyn std::error::Error| format!("failed to read {shown}: {}", causes(error));
    match place(text)? {
        Place::Web(url) => {
            let request = client()?.get(url).header("Accept", "application/json");
            Ok(answer(request).await.map_err(|error| failed(&error))?)
        }
        Place::Store(store, path) => {
            let found = store.get(&path).await.map_err(|error| failed(&error))?;
            Ok(found.bytes().await.map_err(|error| failed(&error))?.into())
        }
    }
}

/// Writes what a URL names. Web servers are sent a PUT; object stores replace an object whole.
///
/// # Errors
/// Says what failed.
pub async fn write(text: &str, content: Vec<u8>) -> Result<(), String> {
    let shown = without_secrets(text);
    let failed =
        |error: &dyn std::error::Error| format!("failed to write {shown}: {}", causes(error));
    match place(text)? {
        Place::Web(url) => {
            let request = client()?.put(url).header("Content-Type", "application/json");
            answer(request.body(content)).await.map_err(|error| failed(&error))?;
        }
        Place::Store(store, path) => {
            store.put(&path, content.into()).await.map_err(|error| failed(&error))?;
        }
    }
    Ok(())
}

/// What a web server answers, if it is well. Errors do not show the address.
async fn answer(request: reqwest::RequestBuilder) -> Result<Vec<u8>, reqwest::Error> {
    let answer = async { request.send().await?.error_for_status()?.bytes().await };
    answer.await.map(Into::into).map_err(reqwest::Error::without_url)
}

enum Place {
    Web(Url),
    Store(Box<dyn ObjectStore>, object_store::path::Path),
}

fn place(text: &str) -> Result<Place, String> {
    let shown = without_secrets(text);
    let url = Url::parse(text).map_err(|error| format!("{shown} is no URL: {error}"))?;
    let instead = match url.scheme() {
        "http" | "https" if url.host_str() == Some("github.com") => {
            "a page of github.com holds no notebook; use the address behind its `Raw` button"
        }
        "http" | "https" => return Ok(Place::Web(url)),
        "s3" | "s3a" | "gs" | "az" | "abfs" | "abfss" => return store(&url, &shown),
        "abs" => "use az://CONTAINER/PATH, with the account in $AZURE_STORAGE_ACCOUNT_NAME",
        "adl" => "Azure Data Lake Storage Gen1 was retired; use abfss://",
        "hdfs" => "copy the notebook with `hdfs dfs -get` and `-put`",
        _ => "use a path, http://, https://, s3://, gs:// or az://",
    };
    Err(format!("{shown} cannot be read or written: {instead}"))
}

fn store(url: &Url, shown: &str) -> Result<Place, String> {
    prepare_tls();
    let variables =
        std::env::vars().filter(|(name, _)| PREFIXES.iter().any(|p| name.starts_with(p)));
    let mut options: Vec<(String, String)> =
        variables.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    // An address that a person wrote with http:// is meant so.
    if options.iter().any(|(name, value)| name.contains("endpoint") && value.starts_with("http://"))
    {
        options.push(("allow_http".into(), "true".into()));
    }
    let (store, path) = object_store::parse_url_opts(url, options)
        .map_err(|error| format!("{shown} cannot be used: {}", causes(&error)))?;
    Ok(Place::Store(store, path))
}

fn client() -> Result<reqwest::Client, String> {
    prepare_tls();
    let builder = reqwest::Client::builder()
        .user_agent("jupyterflow")
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT);
    builder.build().map_err(|error| format!("no HTTP client: {}", causes(&error)))
}

/// One implementation of TLS for all that speaks it here.
fn prepare_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_secrets_is_not_shown() {
        for (url, shown) in [
            ("https://user:token@host/a.ipynb?sig=secret#x", "https://host/a.ipynb"),
            ("s3://bucket/a.ipynb", "s3://bucket/a.ipynb"),
            ("http://[broken?sig=secret", "http://[broken"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn other_schemes_are_refused_with_what_to_use_instead() {
        for (url, words) in [
            ("abs://account.blob.core.windows.net/c/a.ipynb?sas", "az://"),
            ("adl://store/a.ipynb", "abfss://"),
            ("hdfs://host/a.ipynb", "hdfs dfs"),
            ("ftp://host/a.ipynb", "http://"),
            ("https://github.com/o/r/blob/main/a.ipynb", "Raw"),
        ] {
            let error = place(url).err().unwrap();
            assert!(error.contains(words) && !error.contains("sas"), "{error}");
        }
    }
}
