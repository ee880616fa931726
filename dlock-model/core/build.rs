//! Says that this is the core for the model.

fn main() {
    println!("cargo::rustc-cfg=dlock_model");
    println!("cargo::rerun-if-changed=build.rs");
}
