//! Any text as a notebook: read, looked at, made ready to run, written, and read again.
#![no_main]

use jupyterflow::notebook::Notebook;
use jupyterflow::notebook::parameters::{Parameter, Parameters, declared, inject};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static COUNTING: jupyterflow_fuzz::Counting = jupyterflow_fuzz::Counting;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    jupyterflow_fuzz::bounded(data, || {
        let Ok(mut notebook) = Notebook::read(text) else { return };
        let written = notebook.write();
        let again = Notebook::read(&written).expect("what we write, we read");
        assert_eq!(again.write(), written, "writing settles at once");
        let _ = (notebook.kernel_name(), notebook.language(), declared(&notebook));
        let mut id = 0;
        notebook.upgrade_to_4_5(|| {
            id += 1;
            format!("i{id}")
        });
        let parameters: Parameters = [("a".to_owned(), Parameter::Null)].into();
        let _ = inject(&mut notebook, &parameters, Some("python3"), Some("python"), "new");
        notebook.remove_banners();
        Notebook::read(&notebook.write()).expect("what we make, we read");
    });
});
