//! The cluster that a command talks to, and which engine is meant.
//!
//! Owns the connection, and the choice where nobody says: `argo` inside a Jupyter pod that may create
//! Workflows, else `local`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client, Config};
use tokio::runtime::Runtime;

use super::error::{CliError, Code};
use super::global::Global;
use crate::controller::environments::name_of;
use crate::engine::argo::compile::Site;
use crate::engine::argo::environment::Environment;
use crate::engine::argo::{ArgoAddress, ArgoEngine, ArgoServer, EachByItself, OneSite, ask};
use crate::jupyterhub::Inside;
use crate::store::EngineName;

/// The image with this program alone, from which pods take it.
pub const PROGRAM_IMAGE: &str =
    concat!("ghcr.io/jupyterflow/jupyterflow:", env!("CARGO_PKG_VERSION"));

/// A connection.
pub struct Cluster {
    runtime: Arc<Runtime>,
    client: Client,
    namespace: String,
    server: Option<ArgoServer>,
}

/// The address of Argo's server, and the files with who vouches for it and with a token, by variables.
fn argo_server() -> Option<ArgoAddress> {
    let given = |name| variable(name).filter(|text| !text.is_empty());
    Some(ArgoAddress {
        url: given("JUPYTERFLOW_ARGO_SERVER")?,
        certificates: given("JUPYTERFLOW_ARGO_CA").map(PathBuf::from),
        token: given("JUPYTERFLOW_ARGO_TOKEN_FILE").map(PathBuf::from),
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Cluster {
    /// Connects, as kubectl does: by the kubeconfig, else by the pod's own service account.
    ///
    /// # Errors
    /// There is neither, or it is not usable.
    pub fn connect() -> Result<Self, CliError> {
        let failed = |error: &dyn std::fmt::Display| {
            CliError::unreachable(format!("failed to reach a cluster: {error}"))
                .hint("set KUBECONFIG, or use --engine local")
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let config = runtime.block_on(Config::infer()).map_err(|error| failed(&error))?;
        let namespace = config.default_namespace.clone();
        let runtime = Arc::new(runtime);
        let server = argo_server().map(|at| ArgoServer::connect(&runtime, &config, &at));
        let server = server.transpose().map_err(CliError::usage)?;
        // The client starts tasks of its own.
        let client = runtime.block_on(async { Client::try_from(config) });
        let client = client.map_err(|error| failed(&error))?;
        Ok(Self { runtime, client, namespace, server })
    }

    /// The name of the object that keeps this user's environment; none outside of a Jupyter pod.
    pub fn own_environment() -> Option<String> {
        let inside = Inside::from_environment(&variable)?;
        Some(name_of(&inside.user.or(inside.notebook)?))
    }

    /// What runs on it.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// The connection itself.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Argo's own server, where its address is known.
    pub fn server(&self) -> Option<ArgoServer> {
        self.server.clone()
    }

    /// The namespace that is meant where none is named.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn wait<T>(&self, what: impl Future<Output = kube::Result<T>>) -> Result<T, CliError> {
        ask(&self.runtime, what).map_err(|refusal| {
            CliError::unreachable(format!("failed to ask the cluster: {}", refusal.message))
        })
    }

    /// Whether we may create Workflows in our namespace.
    fn may_create(&self) -> Result<bool, CliError> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let asked = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(self.namespace.clone()),
                    verb: Some("create".into()),
                    group: Some("argoproj.io".into()),
                    resource: Some("workflows".into()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let review = self.wait(async { reviews.create(&PostParams::default(), &asked).await })?;
        Ok(review.status.is_some_and(|status| status.allowed))
    }

    /// The environment of the user's own pod; an empty one outside of any.
    ///
    /// # Errors
    /// The pod cannot be found.
    pub fn environment(&self) -> Result<Environment, CliError> {
        let Some(inside) = Inside::from_environment(&variable) else {
            return Ok(Environment::default());
        };
        let pod = self.wait(inside.find(self.client.clone(), &self.namespace))?;
        let pod = pod.map_err(|message| {
            CliError::unreachable(format!("{message} in namespace {}", self.namespace))
        })?;
        Environment::of_pod(&pod).ok_or_else(|| CliError::unreachable("this pod has no container"))
    }

    /// The engine for a site; without one it looks after the runs that there are.
    pub fn engine(self, site: Result<Site, CliError>) -> ArgoEngine {
        let site = site.map_err(|error| error.message());
        let sites = OneSite { namespace: self.namespace, site };
        let sight = EachByItself::new(Arc::clone(&self.runtime), self.client.clone());
        let engine = ArgoEngine::new(self.runtime, self.client, Arc::new(sites), Arc::new(sight));
        engine.asking(self.server)
    }

    /// What runs of a root are compiled for.
    ///
    /// # Errors
    /// No other pod can see the root, or no Jupyter pod is known.
    pub fn site(&self, root: &Path, parallelism: Option<usize>) -> Result<Site, CliError> {
        let environment = self.environment()?;
        let shown = root.display();
        if !environment.shares(root) {
            let places = environment.volume_mounts.iter().map(|mount| mount.mount_path.as_str());
            let places: Vec<&str> = places.collect();
            let message = format!("{shown} lies on no volume that other pods could mount");
            return Err(CliError::usage(message).hint(if places.is_empty() {
                "run it in a Jupyter pod with a volume, or use --engine local".to_owned()
            } else {
                format!("move it below one of {}, or use --engine local", places.join(", "))
            }));
        }
        let root = root.to_str().ok_or_else(|| {
            CliError::usage(format!("{shown} is no path that a Workflow can hold"))
        })?;
        Ok(site(environment, root.to_owned(), parallelism))
    }
}

/// Whether this is a Jupyter pod.
pub fn is_inside() -> bool {
    Inside::from_environment(&variable).is_some()
}

/// What runs are compiled for.
pub fn site(environment: Environment, root: String, parallelism: Option<usize>) -> Site {
    Site {
        environment,
        program_image: program_image(),
        root,
        checkout: None,
        store: None,
        parallelism,
    }
}

/// The image from which pods take this program.
pub fn program_image() -> String {
    variable("JUPYTERFLOW_IMAGE").unwrap_or_else(|| PROGRAM_IMAGE.to_owned())
}

/// The engine that a person named.
///
/// # Errors
/// There is no such engine.
pub fn named(global: &Global) -> Result<Option<EngineName>, CliError> {
    match global.engine.as_deref() {
        None => Ok(None),
        Some("argo") => Ok(Some(EngineName::Argo)),
        Some("local") => Ok(Some(EngineName::Local)),
        Some(other) => Err(CliError::usage(format!("there is no engine {other:?}"))
            .hint("there are local and argo")),
    }
}

/// The engine that is meant, and why, for the first line of `run`.
///
/// # Errors
/// There is no such engine.
pub fn chosen(global: &Global) -> Result<(EngineName, String), CliError> {
    if let Some(engine) = named(global)? {
        let word = global.engine.as_deref().unwrap_or_default();
        return Ok((engine, format!("engine: {word} (asked for)")));
    }
    let local = |why: &str| Ok((EngineName::Local, format!("engine: local ({why})")));
    if !is_inside() {
        return local("the default");
    }
    match Cluster::connect().and_then(|cluster| cluster.may_create()) {
        Ok(true) => {
            let why = "engine: argo (this is a Jupyter pod that may create Workflows)";
            Ok((EngineName::Argo, why.into()))
        }
        Ok(false) => local("this Jupyter pod may not create Workflows"),
        // What somebody set up wrongly is no choice.
        Err(error) if error.code == Code::Usage => Err(error),
        Err(_) => local("this Jupyter pod has no access to its cluster"),
    }
}
