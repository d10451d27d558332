//! New guests: of templates, as copies, from scratch; what they inherit, where they go, and how they are removed again.

use crate::lab::{Inmate, Lab, calls, carried_out, ct, intent, lab, vm};
use nhi_decide::plan::{NewGuestNeed, Past, needs};
use nhi_model::{
    fact::Fact,
    guest::{GuestKind, GuestStatus},
    intent::Operation,
    plan::{Ends, ImpactCause, OnFailure, Risk},
    refusal::RefusalCode,
};
use serde_json::json;

fn template() -> Inmate {
    vm(9000, "debian-13")
        .line("tags", "nh-critical;base")
        .line("protection", "1")
        .line("onboot", "1")
        .line("boot", "order=ide2;scsi0")
        .line("ide2", "local-lvm:vm-9000-cloudinit,media=cdrom")
        .line("smbios1", "uuid=1")
        .template()
}

#[test]
fn a_guest_of_a_template_is_linked_fitted_grown_and_started() {
    let mut lab = lab([template()]);
    let asked = intent(json!({"do": "create-vm", "template": "debian-13", "new": {
        "name": "mongodb", "cores": 4, "memory_mib": 4096, "disk_gib": 64, "tags": ["db"], "start": true, "pool": "lab",
        "bridge": "vmbr1", "description": "holds documents",
    }}));
    let plan = lab.plan(&asked).unwrap();
    assert_eq!(
        calls(&plan),
        [
            "POST /nodes/pve1/qemu/9000/clone name=mongodb newid=500 pool=lab",
            "PUT /nodes/pve1/qemu/500/config cores=4 delete=protection description=holds documents memory=4096 \
         net0=virtio,bridge=vmbr1,firewall=1 tags=db",
            "PUT /nodes/pve1/qemu/500/resize disk=scsi0 size=64G",
            "POST /nodes/pve1/qemu/500/status/start",
        ]
    );
    let key = nhi_model::key::Key::guest(GuestKind::Qemu, "home", 500);
    // The task carries the number of what is copied.
    assert!(matches!(&plan.steps[0].ends, Ends::Task { kinds, vmid: 9000, .. } if *kinds == ["qmclone"]));
    assert!(plan.steps[0].before.contains(&Fact::Gone { guest: key.clone() }));
    assert!(plan.requires.contains(&Fact::Gone { guest: key.clone() }));
    assert_eq!((plan.reads[&key], plan.risk, plan.on_failure), (0, Risk::Medium, OnFailure::Compensate));
    let undone: Vec<String> =
        plan.steps.iter().filter_map(|step| Some(step.compensation.as_ref()?.call.to_string())).collect();
    assert_eq!(
        undone,
        ["DELETE /nodes/pve1/qemu/500 destroy-unreferenced-disks=0", "POST /nodes/pve1/qemu/500/status/stop",]
    );
    assert_eq!(plan.targets.len(), 1);
    assert_eq!(plan.targets[0].identity, None);
    assert_eq!(
        plan.targets[0].operations,
        [Operation::CreateVm, Operation::CreateVm, Operation::CreateVm, Operation::Start]
    );
    assert!(plan.impacts.iter().any(|impact| impact.cause == ImpactCause::LinkedClone));
    for fact in [
        Fact::Named { guest: key.clone(), name: "mongodb".to_owned() },
        Fact::OnNode { guest: key.clone(), node: "pve1".to_owned() },
        Fact::Status { guest: key.clone(), status: GuestStatus::Running },
        Fact::Config { guest: key.clone(), field: "protection".to_owned(), value: None },
        Fact::Config { guest: key.clone(), field: "tags".to_owned(), value: Some("db".to_owned()) },
    ] {
        assert!(plan.expects.contains(&fact), "{fact:?}");
    }

    for step in &plan.steps {
        crate::proxmox::call(&mut lab, &step.call).unwrap();
    }
    lab.past = Some(Past { done: Some(carried_out(&plan)), moment: None });
    // The scanner may not have seen it yet: what is live decides.
    let mut known = lab.known();
    known.remove(&key);
    let undo = intent(json!({"do": "undo", "plan": plan.id}));
    let back = lab.plan_knowing(&undo, &known, &lab.sight()).unwrap();
    assert_eq!(
        calls(&back),
        ["POST /nodes/pve1/qemu/500/status/stop", "DELETE /nodes/pve1/qemu/500 destroy-unreferenced-disks=0",]
    );
    // A guest somebody else made there since is not removed.
    lab.guests.insert(500, vm(500, "theirs").stopped());
    assert_eq!(lab.plan(&undo).unwrap_err().code, RefusalCode::OtherGuest);
}

#[test]
fn a_copy_has_the_tags_that_were_asked_for_and_no_protection() {
    let lab = lab([vm(105, "db").line("tags", "critical").line("protection", "1")]);
    let plan = lab.plan(&intent(json!({"do": "clone", "guest": "105", "new": {"name": "copy"}}))).unwrap();
    assert_eq!(
        calls(&plan),
        [
            "POST /nodes/pve1/qemu/105/clone full=1 name=copy newid=500",
            "PUT /nodes/pve1/qemu/500/config delete=protection,tags",
        ]
    );
    let plain = self::lab([vm(105, "db")]);
    let plan = plain.plan(&intent(json!({"do": "clone", "guest": "105", "new": {"name": "copy"}}))).unwrap();
    assert_eq!(plan.steps.len(), 1, "nothing to set, no call: {:?}", calls(&plan));
}

#[test]
fn disks_are_linked_where_that_can_be() {
    let asked = |more: serde_json::Value| {
        let mut value = json!({"do": "create-vm", "template": "9000", "new": {"name": "a"}});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        intent(value)
    };
    let first =
        |lab: &Lab, more| lab.plan(&asked(more)).map(|plan| calls(&plan)[0].clone()).map_err(|it| it.code);
    let mut lab = lab([vm(9000, "t").template()]);
    let linked = "POST /nodes/pve1/qemu/9000/clone name=a newid=500";
    let full = "POST /nodes/pve1/qemu/9000/clone full=1 name=a newid=500";
    assert_eq!(first(&lab, json!({})).unwrap(), linked);
    assert_eq!(first(&lab, json!({"full": true})).unwrap(), full);
    let on_nas = json!({"new": {"name": "a", "storage": "nas"}});
    assert_eq!(first(&lab, on_nas.clone()), Err(RefusalCode::BadValue));
    let both = json!({"new": {"name": "a", "storage": "nas"}, "full": true});
    assert_eq!(first(&lab, both).unwrap(), format!("{full} storage=nas"));
    lab.storages.push(("thick", "lvm", "images", false));
    lab.guests.insert(
        9000,
        vm(9000, "t").line("scsi0", "thick:base-9000-disk-0,size=8G").stopped().line("template", "1"),
    );
    assert_eq!(first(&lab, json!({})).unwrap(), full);
    // To another node only where that reaches the disks.
    let away = json!({"new": {"name": "a", "node": "pve2"}});
    assert_eq!(first(&lab, away.clone()), Err(RefusalCode::NotPossible));
    lab.guests.insert(
        9000,
        vm(9000, "t")
            .line("scsi0", "nas:9000/base-9000-disk-0.qcow2,size=8G")
            .stopped()
            .line("template", "1"),
    );
    assert_eq!(first(&lab, away).unwrap(), format!("{linked} target=pve2"));
}

#[test]
fn containers_are_made_of_files_and_of_guests() {
    let lab = lab([ct(9001, "base").template(), ct(106, "web").snapshot("good", 1, &[])]);
    let plan = lab
        .plan(&intent(json!({"do": "create-lxc", "template": "nas:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst",
            "new": {"name": "cache", "storage": "local-lvm", "node": "pve2"}, "ip": "192.0.2.7/24", "gateway": "192.0.2.1"})))
        .unwrap();
    assert_eq!(
        calls(&plan),
        ["POST /nodes/pve2/lxc features=nesting=1 hostname=cache \
         net0=name=eth0,bridge=vmbr0,gw=192.0.2.1,ip=192.0.2.7/24,type=veth \
         ostemplate=nas:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst rootfs=local-lvm:8 unprivileged=1 vmid=500"]
    );
    let plan =
        lab.plan(&intent(json!({"do": "create-lxc", "template": "base", "new": {"name": "cache"}}))).unwrap();
    assert_eq!(calls(&plan)[0], "POST /nodes/pve1/lxc/9001/clone hostname=cache newid=500");
    assert_eq!(plan.steps[0].operation, Operation::CreateLxc);
    let code = |asked| lab.plan(&intent(asked)).unwrap_err().code;
    assert_eq!(
        code(json!({"do": "create-vm", "template": "base", "new": {"name": "x"}})),
        RefusalCode::NotPossible
    );
    assert_eq!(
        code(json!({"do": "create-lxc", "template": "web", "new": {"name": "x"}})),
        RefusalCode::NotPossible
    );
    // Of a running container only a snapshot can be copied.
    assert_eq!(code(json!({"do": "clone", "guest": "106", "new": {"name": "x"}})), RefusalCode::NotPossible);
    let plan =
        lab.plan(&intent(json!({"do": "clone", "guest": "106", "new": {"name": "x"}, "snapshot": "good"})));
    assert_eq!(
        calls(&plan.unwrap())[0],
        "POST /nodes/pve1/lxc/106/clone full=1 hostname=x newid=500 snapname=good"
    );
}

#[test]
fn a_guest_from_scratch_goes_where_there_is_room() {
    let lab = lab([]);
    let mut known = lab.known();
    known.retain(|key, _| key.section() != nhi_model::key::Section::Vm);
    let plan = lab
        .plan(&intent(json!({"do": "create-vm", "new": {"name": "router", "disk_gib": 8}, "iso": "local:iso/opnsense.iso"})))
        .unwrap();
    // pve3 has most free memory; of equally free storages the first by name.
    assert_eq!(
        calls(&plan),
        [
            "POST /nodes/pve3/qemu boot=order=scsi0;ide2;net0 ide2=local:iso/opnsense.iso,media=cdrom name=router \
         net0=virtio,bridge=vmbr0 ostype=l26 scsi0=local-lvm:8 scsihw=virtio-scsi-single vmid=500"
        ]
    );
    assert!(plan.effects.iter().any(|effect| effect.contains("node pve3")));
}

#[test]
fn numbers_come_in_order_and_are_proved_free() {
    let mut lab = lab([vm(9000, "t").template()]);
    let one = |name: &str| json!({"do": "create-vm", "template": "9000", "new": {"name": name}});
    let asked = intent(
        json!({"do": "all", "of": [one("a"), one("b"), {"do": "create-vm", "template": "9000", "new": {"name": "c", "vmid": 502}}]}),
    );
    let wanted = needs(&asked, &lab.known(), &lab.policy, None).unwrap();
    let need = |vmid| NewGuestNeed { kind: GuestKind::Qemu, vmid };
    assert_eq!((wanted.vmids, wanted.new_guests), (3, vec![need(None), need(None), need(Some(502))]));
    assert!(wanted.storages);
    let plan = lab.plan(&asked).unwrap();
    assert_eq!(plan.targets.iter().map(|target| target.vmid).collect::<Vec<_>>(), [500, 501, 502]);

    let code = |lab: &Lab, asked| lab.plan(&intent(asked)).unwrap_err().code;
    let mut sight = lab.sight();
    sight.guests.remove(&nhi_model::key::Key::guest(GuestKind::Qemu, "home", 500));
    assert_eq!(lab.plan_on(&intent(one("a")), &sight).unwrap_err().code, RefusalCode::NotSeen);
    lab.guests.insert(500, ct(500, "taken"));
    assert_eq!(code(&lab, one("a")), RefusalCode::NoRoom);
    lab.guests.remove(&500);
    lab.vmids = vec![501];
    assert_eq!(
        code(&lab, json!({"do": "create-vm", "template": "9000", "new": {"name": "c", "vmid": 502}})),
        RefusalCode::NoRoom
    );
}

#[test]
fn a_template_is_not_removed_under_its_new_copy() {
    let lab = lab([vm(9000, "t").template()]);
    let asked = intent(json!({"do": "all", "of": [
        {"do": "create-vm", "template": "9000", "new": {"name": "a"}}, {"do": "destroy", "guest": "9000"},
    ]}));
    assert_eq!(lab.plan(&asked).unwrap_err().code, RefusalCode::LinkedClones);
}

#[test]
fn a_template_whose_links_do_not_show_is_removed_only_where_nothing_could_be_one() {
    let asked = |more: &[u32]| {
        let all = more.iter().chain([&9000]).map(|vmid| json!({"do": "destroy", "guest": vmid.to_string()}));
        intent(json!({"do": "all", "of": all.collect::<Vec<_>>()}))
    };
    // On LVM-thin a linked copy looks like a full one.
    let mut lab = lab([vm(9000, "t").template(), vm(105, "copy").stopped()]);
    let refusal = lab.plan(&asked(&[])).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::LinkedClones);
    assert!(refusal.message.contains("copy"), "{refusal:?}");
    for command in ["lvs -o lv_name,origin -S 'origin=~^base-9000-'", "qm destroy 9000"] {
        assert!(refusal.hint.contains(command), "{refusal:?}");
    }
    assert!(lab.plan(&asked(&[105])).is_ok(), "what could be one goes first");
    // One that is no copy for certain: of another kind, on another node, on another storage.
    lab.guests = [vm(9000, "t").template(), ct(105, "box"), vm(106, "far").on("pve2")]
        .into_iter()
        .chain([vm(107, "moved").line("scsi0", "nas:107/vm-107-disk-0.qcow2,size=8G")])
        .map(|guest| (guest.vmid, guest))
        .collect();
    assert!(lab.plan(&asked(&[])).is_ok());
    // One whose disks were not read could be.
    lab.guests.insert(108, vm(108, "new").without("scsi0"));
    assert_eq!(lab.plan(&asked(&[])).unwrap_err().code, RefusalCode::LinkedClones);
    // Where links show, nothing is suspected.
    let zfs = |vmid: u32, volume: &str| vm(vmid, "t").stopped().line("scsi0", volume);
    lab.guests = [
        zfs(9000, "tank:base-9000-disk-0,size=8G").line("template", "1"),
        zfs(109, "tank:vm-109-disk-0,size=8G"),
    ]
    .into_iter()
    .map(|guest| (guest.vmid, guest))
    .collect();
    assert!(lab.plan(&asked(&[])).is_ok());
    lab.guests.insert(110, zfs(110, "tank:base-9000-disk-0/vm-110-disk-0,size=8G"));
    assert_eq!(lab.plan(&asked(&[])).unwrap_err().code, RefusalCode::LinkedClones);
}
