//! tmp
use penstock_packages::*;
fn main() {
    let mut a = std::env::args().skip(1);
    let store = ContentStore::open(a.next().unwrap().into()).unwrap();
    for zip in a {
        match store.ingest_zip(std::fs::File::open(&zip).unwrap(), &PackageLimits::lambda()) {
            Ok(p) => {
                println!("{zip}: {} files {}", p.manifest.files().len(), p.manifest.files().iter().map(|f| f.path.clone() + if f.executable {"*"} else {""}).collect::<Vec<_>>().join(" "));
                store.export_zip(p.manifest_sha256, std::fs::File::create(format!("{zip}.out")).unwrap()).unwrap();
            }
            Err(e) => println!("{zip}: {e} | {:?}", e.lambda_text()),
        }
    }
}
