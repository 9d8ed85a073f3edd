//! Projects without containers, for the tests of whoever uses them. Every file declares two volumes of `shop`, `db` and
//! `files`, and has two services, `db` and `web`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{DeclaredVolume, Project, Projects};
use crate::RuntimeError;

const SERVICES: [&str; 2] = ["db", "web"];

#[derive(Default, Clone)]
struct Inner {
    /// The services that run, by project; one that is stopped has none, one that is down is not here.
    projects: BTreeMap<String, BTreeSet<String>>,
    failing: BTreeSet<&'static str>,
}

/// Projects in memory.
#[derive(Default)]
pub struct SimProjects(Mutex<Inner>);

impl SimProjects {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same projects, going their own way from here on.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(Mutex::new(self.lock().clone()))
    }

    /// Makes the next call of a method fail.
    pub fn fail_next(&self, method: &'static str) {
        self.lock().failing.insert(method);
    }

    /// No call fails any more.
    pub fn heal(&self) {
        self.lock().failing.clear();
    }

    /// Projects that have containers, and how many of them run.
    pub fn inventory(&self) -> BTreeMap<String, usize> {
        self.lock().projects.iter().map(|(name, services)| (name.clone(), services.len())).collect()
    }

    fn enter(&self, method: &'static str) -> Result<MutexGuard<'_, Inner>, RuntimeError> {
        let mut inner = self.lock();
        if inner.failing.remove(method) {
            return Err(RuntimeError::Invalid(format!("{method} was told to fail")));
        }
        Ok(inner)
    }
}

impl Projects for SimProjects {
    fn is_there(&self, _: &Project) -> bool {
        true
    }

    fn volumes(&self, project: &Project) -> Result<Vec<DeclaredVolume>, RuntimeError> {
        drop(self.enter("volumes")?);
        let declared = |source: &str| {
            let options = [("from", "shop"), ("source", source)];
            let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            DeclaredVolume { name: format!("{}_{source}", project.name), options }
        };
        Ok(["db", "files"].map(declared).into())
    }

    fn running(&self, project: &Project) -> Result<Vec<String>, RuntimeError> {
        let inner = self.enter("running")?;
        Ok(inner.projects.get(&project.name).into_iter().flatten().cloned().collect())
    }

    fn up(&self, project: &Project, only: Option<&[String]>) -> Result<(), RuntimeError> {
        let mut inner = self.enter("up")?;
        let services = match only {
            Some(only) => only.to_vec(),
            None => SERVICES.map(str::to_owned).to_vec(),
        };
        inner.projects.entry(project.name.clone()).or_default().extend(services);
        Ok(())
    }

    fn stop(&self, project: &Project) -> Result<(), RuntimeError> {
        if let Some(services) = self.enter("stop")?.projects.get_mut(&project.name) {
            services.clear();
        }
        Ok(())
    }

    fn down(&self, project: &Project) -> Result<(), RuntimeError> {
        self.enter("down")?.projects.remove(&project.name);
        Ok(())
    }
}
