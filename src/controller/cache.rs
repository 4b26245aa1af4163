//! What is known of a cluster's objects without asking: what a watch told, and what this process wrote or
//! read itself.
//!
//! Owns which of two versions of an object is the newer. A watch may be behind; it never undoes what was
//! written since.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Resource;

use super::objects::Key;
use super::records::version;

/// So many removals are remembered, since an answer to an older request may come after them.
const REMOVALS: usize = 10_000;

/// Objects of one kind.
pub struct Cache<K> {
    held: Mutex<Held<K>>,
    index: fn(&K) -> Vec<String>,
    pulse: Arc<AtomicI64>,
}

struct Held<K> {
    objects: HashMap<Key, Arc<K>>,
    by: HashMap<String, BTreeSet<Key>>,
    removed: HashMap<Key, i64>,
    /// What the list that is under way has shown so far.
    listed: Option<HashSet<Key>>,
    ready: bool,
}

/// The namespace and the name of an object.
pub fn key_of(object: &impl Resource) -> Key {
    let metadata = object.meta();
    Key {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

impl<K: Resource + Clone> Cache<K> {
    /// An empty one, of which objects are found by words too. What others write raises the pulse.
    pub fn new(index: fn(&K) -> Vec<String>, pulse: Arc<AtomicI64>) -> Self {
        let held = Held {
            objects: HashMap::new(),
            by: HashMap::new(),
            removed: HashMap::new(),
            listed: None,
            ready: false,
        };
        Self { held: Mutex::new(held), index, pulse }
    }

    fn held(&self) -> MutexGuard<'_, Held<K>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a first list was whole.
    pub fn is_ready(&self) -> bool {
        self.held().ready
    }

    /// An object.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.held().objects.get(key).cloned()
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.held().objects.values().cloned().collect()
    }

    /// The objects of a word.
    pub fn find(&self, word: &str) -> Vec<Arc<K>> {
        let held = self.held();
        let keys = held.by.get(word).into_iter().flatten();
        keys.filter_map(|key| held.objects.get(key).cloned()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.held().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put(&self, held: &mut Held<K>, object: K) -> Option<Arc<K>> {
        let key = key_of(&object);
        let own = version(object.meta()).unwrap_or(0);
        let known = held.objects.get(&key);
        let newer = known.is_none_or(|known| version(known.meta()).unwrap_or(0) < own);
        if !newer || held.removed.get(&key).is_some_and(|removed| *removed >= own) {
            return None;
        }
        take_out(held, &key, self.index);
        held.removed.remove(&key);
        for word in (self.index)(&object) {
            held.by.entry(word).or_default().insert(key.clone());
        }
        let object = Arc::new(object);
        held.objects.insert(key, Arc::clone(&object));
        Some(object)
    }

    /// Takes what this process read or wrote, but for the note of who wrote which field: it is longer than all else.
    pub fn take(&self, mut object: K) -> Arc<K> {
        object.meta_mut().managed_fields = None;
        let key = key_of(&object);
        let mut held = self.held();
        let given = Arc::new(object.clone());
        match self.put(&mut held, object) {
            Some(put) => put,
            // A watch was faster; what was answered is still the answer.
            None => held
                .objects
                .get(&key)
                .filter(|known| version(known.meta()) == version(given.meta()))
                .cloned()
                .unwrap_or(given),
        }
    }

    /// Asks a server for an object, and takes what it answers. That there is none says nothing of one that a watch
    /// told of meanwhile.
    ///
    /// # Errors
    /// Those of the question.
    pub fn read<E>(
        &self,
        key: &Key,
        ask: impl FnOnce() -> Result<Option<K>, E>,
    ) -> Result<Option<Arc<K>>, E> {
        let at = || self.get(key).and_then(|known| version(known.meta()));
        let before = at();
        let read = ask()?;
        if read.is_none() && at() == before {
            self.removed(key);
        }
        Ok(read.map(|read| self.take(read)))
    }

    /// Takes what a watch tells.
    pub fn saw(&self, object: K) {
        let mut held = self.held();
        let key = key_of(&object);
        if let Some(listed) = &mut held.listed {
            listed.insert(key);
        }
        if self.put(&mut held, object).is_some() {
            self.pulse.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes note that an object is there, though it cannot be read.
    pub fn stands(&self, key: &Key) {
        if let Some(listed) = &mut self.held().listed {
            listed.insert(key.clone());
        }
    }

    /// Takes note of a removal that a watch tells, with the version in which the object went.
    pub fn saw_removed(&self, key: &Key, own: i64) {
        let mut held = self.held();
        // One that was made anew since stays.
        if held.objects.get(key).is_some_and(|known| version(known.meta()).unwrap_or(0) > own) {
            return;
        }
        if held.removed.len() > REMOVALS {
            held.removed.clear();
        }
        held.removed.insert(key.clone(), own);
        if take_out(&mut held, key, self.index) {
            self.pulse.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes note of an object that this process removed, or that the server says is not there.
    pub fn removed(&self, key: &Key) {
        let mut held = self.held();
        if let Some(known) = held.objects.get(key) {
            let own = version(known.meta()).unwrap_or(0);
            held.removed.insert(key.clone(), own);
        }
        take_out(&mut held, key, self.index);
    }

    /// A list begins.
    pub fn list_begins(&self) {
        self.held().listed = Some(HashSet::new());
    }

    /// A list is whole: what it did not show is gone. What was made since it began comes with the watch.
    pub fn list_ends(&self) {
        let mut held = self.held();
        if let Some(listed) = held.listed.take() {
            let gone: Vec<Key> =
                held.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
            for key in &gone {
                take_out(&mut held, key, self.index);
            }
        }
        held.ready = true;
        drop(held);
        self.pulse.fetch_add(1, Ordering::Relaxed);
    }
}

fn take_out<K>(held: &mut Held<K>, key: &Key, index: fn(&K) -> Vec<String>) -> bool {
    let Some(known) = held.objects.remove(key) else { return false };
    for word in index(&known) {
        if let Some(keys) = held.by.get_mut(&word) {
            keys.remove(key);
            if keys.is_empty() {
                held.by.remove(&word);
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;

    fn object(name: &str, version: i64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    fn cache() -> Cache<ConfigMap> {
        Cache::new(|object| vec![object.metadata.name.clone().unwrap_or_default()], Arc::default())
    }

    fn known(cache: &Cache<ConfigMap>, name: &str) -> Option<i64> {
        let key = key_of(&object(name, 0));
        let found = cache.find(name);
        assert_eq!(found.len(), usize::from(cache.get(&key).is_some()));
        cache.get(&key).and_then(|known| version(&known.metadata))
    }

    #[test]
    fn a_watch_that_is_behind_undoes_nothing() {
        let cache = cache();
        cache.take(object("a", 5));
        cache.saw(object("a", 3));
        assert_eq!(known(&cache, "a"), Some(5));
        assert_eq!(cache.pulse.load(Ordering::Relaxed), 0);
        cache.saw(object("a", 6));
        assert_eq!(known(&cache, "a"), Some(6));
        assert_eq!(cache.pulse.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_kept_lacks_who_wrote_which_field() {
        let cache = cache();
        let mut answer = object("a", 5);
        answer.metadata.managed_fields = Some(vec![ManagedFieldsEntry::default()]);
        assert_eq!(cache.take(answer).metadata.managed_fields, None);
        assert_eq!(cache.all()[0].metadata.managed_fields, None);
    }

    #[test]
    fn what_was_removed_does_not_come_back_by_an_old_answer() {
        let cache = cache();
        cache.saw(object("a", 3));
        cache.saw_removed(&key_of(&object("a", 7)), 7);
        cache.take(object("a", 5));
        assert_eq!(known(&cache, "a"), None);
        // Made anew, and the late word of the first one's removal.
        cache.take(object("a", 9));
        cache.saw_removed(&key_of(&object("a", 7)), 7);
        assert_eq!(known(&cache, "a"), Some(9));
    }

    #[test]
    fn a_new_list_takes_away_what_it_does_not_show() {
        let cache = cache();
        cache.saw(object("a", 1));
        cache.saw(object("b", 2));
        assert!(!cache.is_ready());
        cache.list_begins();
        cache.saw(object("b", 2));
        cache.list_ends();
        assert!(cache.is_ready());
        assert_eq!((known(&cache, "a"), known(&cache, "b")), (None, Some(2)));
    }
}
